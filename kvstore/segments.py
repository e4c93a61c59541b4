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

    kind: int  # META, BASE, REFINEMENT or ATTACHMENT; with OPTIONAL or'ed in, any
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
        return self.kind & ~OPTIONAL <= ATTACHMENT


def parse_rows(
    table: memoryview, *, inline_bytes: int, payload_bytes: int, has_checksums: bool
) -> tuple[SegmentEntry, ...]:
    """Read a segment table; ``FrameError`` says which row is wrong, and how."""
    rows = []
    ends = [payload_bytes, inline_bytes]
    at = [0, 0]  # next byte of the payload, of the inline bytes
    for number, fields in enumerate(_ROW.iter_unpack(table)):
        row = SegmentEntry(*fields[:7], *fields[8:])
        problem = _problem(row, number)
        where = row.flags & INLINE
        if fields[7] != _ZERO:
            problem = "reserved bytes"
        elif row.offset != at[where] or row.length > ends[where] - at[where]:
            problem = "bytes that do not follow those of the row before"
        elif row.checksum and not where and not has_checksums:
            problem = "a checksum in a frame without checksums"
        if problem:
            raise FrameError(f"segment {number} has {problem}")
        at[where] += row.length
        rows.append(row)
    if at != ends:
        raise FrameError("the segments do not cover the frame's bytes")
    if not any(row.kind & ~OPTIONAL == BASE for row in rows):
        raise FrameError("a frame without a base segment")
    return tuple(rows)


def fidelity_of(segments: Sequence[SegmentEntry]) -> int:
    """What these segments give: the least, over the bases, of the best that covers each."""
    if len(segments) == 2:  # meta and one base: nearly every frame
        return segments[1].fidelity
    sharp = [s for s in segments if s.kind & ~OPTIONAL in (BASE, REFINEMENT)]
    return min(
        max(
            other.fidelity
            for other in sharp
            if other.layer_start <= base.layer_start and base.layer_end <= other.layer_end
        )
        for base in sharp
        if base.kind & ~OPTIONAL == BASE
    )


def _problem(row: SegmentEntry, number: int) -> str:
    """What is wrong with a row by itself, or nothing."""
    if row.flags & ~INLINE:
        return f"unknown flags {row.flags:#x}"
    if row.kind > ATTACHMENT and not row.kind & OPTIONAL:
        return f"the unknown required kind {row.kind}"
    if (row.kind & ~OPTIONAL == META) != (number == 0):
        return "the meta segment's kind, or should have"
    if number == 0:
        is_plain = row.kind == META and not any(row[2:7])
        return "" if is_plain else "a meta segment's kind with options"
    if row.kind & ~OPTIONAL in (BASE, REFINEMENT) and row.layer_start >= row.layer_end:
        return "no layers"
    return ""
