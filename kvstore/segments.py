"""The segment table of a frame: one row for each piece of its bytes (docs/format.md).

A frame's segments are the meta segment, then at least one base, then whatever sharpens or
accompanies it.  Segments lie end to end, some *inline* behind the header, the others in the
payload, so a table that checks out leaves no byte unaccounted for.
"""

import struct
from collections.abc import Sequence
from typing import NamedTuple

from ..compression.codec import ATTACHMENT, BASE, REFINEMENT
from .errors import FrameError

META = 0
"""Kind of the segment from which the key was computed."""
OPTIONAL = 0x80
"""Bit of a kind: a reader that does not know the kind may skip the segment."""
INLINE = 1
"""Flag: the bytes lie behind the header, not in the payload."""
ROW = "BBHHHIB3xQQQ"
ROW_BYTES = 40

_ROW = struct.Struct("<BBHHHIB3sQQQ")
_ZERO = bytes(3)


class SegmentEntry(NamedTuple):
    """One row, in the order of its bytes."""

    kind: int  # META, BASE, REFINEMENT, ATTACHMENT, or unknown with OPTIONAL
    flags: int = 0
    codec: int = 0
    layer_start: int = 0
    layer_end: int = 0
    calibration: int = 0
    fidelity: int = 0  # of its layers, once this segment and those before it are decoded
    offset: int = 0
    length: int = 0
    checksum: int = 0

    @property
    def layers(self) -> tuple[int, int]:
        """Half-open range of positions within the group."""
        return self.layer_start, self.layer_end

    @property
    def is_inline(self) -> bool:
        """Whether the bytes lie behind the header."""
        return bool(self.flags & INLINE)

    @property
    def is_known(self) -> bool:
        """Whether this version knows what the segment is for; readers skip the others."""
        return self.kind <= ATTACHMENT


def parse_rows(
    table: memoryview, *, inline_bytes: int, payload_bytes: int, has_checksums: bool
) -> tuple[SegmentEntry, ...]:
    """Read a segment table; ``FrameError`` says which row is wrong, and how."""
    rows: list[SegmentEntry] = []
    has_base = False
    ends = (payload_bytes, inline_bytes)
    at = [0, 0]  # next byte of the payload, of the inline bytes
    for fields in _ROW.iter_unpack(table):
        kind, flags, _, start, end, _, _, zero, offset, length, checksum = fields
        where = flags & INLINE
        if flags != where or zero != _ZERO:
            raise FrameError(f"segment {len(rows)} has unknown flags or reserved bytes")
        if offset != at[where] or length > ends[where] - offset:
            raise FrameError(f"segment {len(rows)} does not follow the bytes of the one before")
        if checksum and not where and not has_checksums:
            raise FrameError(f"segment {len(rows)} has a checksum in a frame without checksums")
        at[where] += length
        if kind == BASE and rows and start < end:  # nearly every row but the first
            has_base = True
        else:
            _check_kind(fields, len(rows))
        rows.append(SegmentEntry._make((*fields[:7], offset, length, checksum)))
    if at[0] != payload_bytes or at[1] != inline_bytes or not has_base:
        raise FrameError("the segments do not cover the frame's bytes, or none is a base")
    return tuple(rows)


def fidelity_of(segments: Sequence[SegmentEntry]) -> int:
    """What these segments give: the least, over the bases, of the best that covers each."""
    if len(segments) == 2:  # meta and one base: nearly every frame
        return segments[1].fidelity
    sharp = [s for s in segments if s.kind in (BASE, REFINEMENT)]
    return min(
        max(
            other.fidelity
            for other in sharp
            if other.layer_start <= base.layer_start and base.layer_end <= other.layer_end
        )
        for base in sharp
        if base.kind == BASE
    )


def _check_kind(fields: tuple[int, ...], number: int) -> None:
    """Refuse a row whose kind is unknown or out of place; ``fields`` as they lie in the table."""
    kind, _, *options = fields[:7]
    if kind <= ATTACHMENT | OPTIONAL and kind > ATTACHMENT:
        raise FrameError(f"segment {number} is of the unknown required kind {kind}")
    if (kind == META) != (number == 0):
        raise FrameError(f"segment {number} is of kind {kind}; the first alone is the meta segment")
    if number == 0 and any(options):
        raise FrameError("the meta segment has a codec, layers, a calibration or a fidelity")
    if kind in (BASE, REFINEMENT) and options[1] >= options[2]:
        raise FrameError(f"segment {number} has no layers")
