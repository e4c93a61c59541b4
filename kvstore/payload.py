"""What lies in a frame's pages: segments end to end, verified, encoded and decoded.

Payload is handled as the list of arrays that its runs of pages are; most frames are one run, and
nothing is copied for them.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ..compression.codec import ATTACHMENT, BASE, REFINEMENT, Block, Bytes, Codec, Encoded, Segment
from ..compression.codecs import CODECS_BY_NUMBER
from .errors import FrameError
from .files import ALIGNMENT
from .frame import Header, checksum, fits, verify_key, with_checksums
from .layout import Layout
from .meta import Meta
from .segments import INLINE, SegmentEntry

RAW = 0
_WORD = 64  # what a block's bytes are aligned to when they are looked at as numbers


class Sealed(NamedTuple):
    """A frame ready to be written: its header with checksums, its payload in whole sectors."""

    header: Header
    payload: Sequence[Bytes]


def cut(pieces: Sequence[Bytes], offset: int, length: int) -> list[Bytes]:
    """The bytes ``offset .. offset + length`` of arrays that lie end to end."""
    parts = []
    for piece in pieces:
        if offset < piece.nbytes and length:
            part = piece[offset : offset + length]
            parts.append(part)
            length -= part.nbytes
        offset = max(0, offset - piece.nbytes)
    return parts


def joined(pieces: Sequence[Bytes], *, offset: int = 0) -> Bytes:
    """The bytes of arrays end to end in one; a copy unless it is one already.

    ``offset`` is where they begin in their pages: from an odd place they are copied, so that they
    can be looked at as numbers.
    """
    if len(pieces) == 1 and offset % _WORD == 0:
        return pieces[0]
    return np.concatenate(pieces) if pieces else np.empty(0, np.uint8)


def sectors(nbytes: int) -> int:
    """``nbytes`` rounded up to what is written and read at once."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def is_plain(header: Header) -> bool:
    """Whether the payload begins with the base as the engine knows it, one raw segment."""
    first = _in_payload(header)[0]
    return first.kind == BASE and first.codec == RAW


def seal(header: Header, pieces: Sequence[Bytes]) -> Header:
    """The header with every payload segment's checksum."""
    if header.has_checksums:
        return header
    return with_checksums(header, [_sum(header, s, pieces) for s in _in_payload(header)])


def verify_payload(header: Header, pieces: Sequence[Bytes]) -> None:
    """Raise FrameError unless every payload segment has its checksum and verifies."""
    if not header.has_checksums:
        raise FrameError("a payload without checksums never left its process")
    for segment in _in_payload(header):
        if _sum(header, segment, pieces) != segment.checksum:
            raise FrameError(f"the checksum of a segment of kind {segment.kind} is wrong")


def verify(header: Header, pieces: Sequence[Bytes]) -> None:
    """Raise FrameError unless all that was read of a frame is what its header and key ask for."""
    verify_payload(header, pieces)
    meta_of(header, pieces)


def meta_of(header: Header, pieces: Sequence[Bytes]) -> Meta:
    """The meta segment, from which the key was recomputed; raises FrameError where it differs."""
    first = header.segments[0]
    if first.is_inline:
        return verify_key(header)
    return verify_key(header, joined(cut(pieces, first.offset, first.length)).tobytes())


def attachments_of(header: Header, pieces: Sequence[Bytes]) -> dict[str, Bytes]:
    """Copies of a frame's attachments by name."""
    names = meta_of(header, pieces).names
    found = [s for s in header.segments if s.kind == ATTACHMENT]
    return {
        name: np.concatenate([np.empty(0, np.uint8), *cut(pieces, s.offset, s.length)])
        for name, s in zip(names, found, strict=False)
    }


def compress(
    sealed: Sealed, codec: Codec, layout: Layout, buffer: Callable[[int], Bytes]
) -> Sealed:
    """The frame with its raw base encoded; as it was where that makes it no smaller.

    ``buffer`` gives aligned memory of at least that many bytes, which the result lies in.
    """
    header, payload = sealed
    if not is_plain(header) or header.part.group >= len(layout.groups):
        return sealed
    base, *rest = _in_payload(header)
    group, shape = layout.groups[header.group], layout.frame_shape(header.group, header.tokens)
    tail = cut(payload, base.length, header.payload_bytes - base.length)
    bound = codec.bound(group, shape)
    out = buffer(sectors(bound + header.payload_bytes - base.length))
    block = Block(group, shape, joined(cut(payload, 0, base.length)))
    encoded = codec.encode([block], [out[:bound]])[0]
    length = sum(segment.length for segment in encoded)
    if sectors(length) >= sectors(base.length):
        return sealed
    end = length + sum(piece.nbytes for piece in tail)
    if tail:
        np.concatenate(tail, out=out[length:end])
    entries = [*_entries(encoded, codec.number), *_moved(rest, length - base.length)]
    inline = [s for s in header.segments if s.flags & INLINE]
    if not fits(len(inline) + len(entries), len(header.inline)):
        return sealed
    changed = header._replace(segments=(*inline, *entries), has_checksums=False)
    return Sealed(seal(changed, [out]), [out[: sectors(end)]])


def decode(
    header: Header, pieces: Sequence[Bytes], block: Block, *, layers: tuple[int, int] | None = None
) -> None:
    """Decode a frame's base and refinements into the block.

    Raises FrameError for a codec that this version does not know, CodecError for segments that do
    not decode.
    """
    by_codec: dict[int, list[Encoded]] = {}
    for s in header.segments:
        if s.kind in (BASE, REFINEMENT):
            segment = Segment(
                s.kind, (s.layer_start, s.layer_end), s.length, s.fidelity, s.calibration
            )
            data = joined(cut(pieces, s.offset, s.length), offset=s.offset)
            by_codec.setdefault(s.codec, []).append(Encoded(segment, data))
    for number, encoded in by_codec.items():
        codec = CODECS_BY_NUMBER.get(number)
        if codec is None:
            raise FrameError(f"codec {number} is not known to this version")
        codec.decode([encoded], [block], layers=layers)


def _in_payload(header: Header) -> list[SegmentEntry]:
    return [s for s in header.segments if not s.flags & INLINE]


def _sum(header: Header, segment: SegmentEntry, pieces: Sequence[Bytes]) -> int:
    data = cut(pieces, segment.offset, segment.length)
    return checksum(header.frame_id, (data[0] if len(data) == 1 else joined(data)).data)


def _entries(segments: Sequence[Segment], codec: int) -> list[SegmentEntry]:
    entries, offset = [], 0
    for s in segments:
        first, end = s.layers
        entries.append(
            SegmentEntry(s.kind, 0, codec, first, end, s.calibration, s.fidelity, offset, s.length)
        )
        offset += s.length
    return entries


def _moved(entries: Sequence[SegmentEntry], by: int) -> list[SegmentEntry]:
    return [entry._replace(offset=entry.offset + by) for entry in entries]
