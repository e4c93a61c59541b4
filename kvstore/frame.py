"""The frame: one shard of one group of a block, at rest (docs/format.md, byte by byte).

A header says everything about a frame: which key, whose, how old, which segments it has and in
which pages they lie.  ``parse`` trusts nothing that it reads: a header that does not check out
raises ``FrameError``, which the store counts and answers as a miss.

    arrange                     lay a frame's segments out: meta inline, the rest end to end
    encode, parse               a header with its inline bytes, as in a header slot
    parse_record                a header alone, as in the disk index
    verify_key                  the key, recomputed from the meta segment
    checksum, verify_segment    one segment's bytes, alone
    locate                      the pages of one segment
    without_trailing            the same frame without its last segments

Pure functions over immutable values; any thread may call them.
"""

import struct
from collections.abc import Iterable, Sequence
from functools import lru_cache
from math import inf
from typing import NamedTuple

from xxhash import xxh3_64_intdigest

from ..compression.codec import BASE
from .errors import ArgumentError, FrameError
from .keys import FrameId, KeyKind, frame_id, recompute
from .layout import Part
from .meta import Meta, parse_meta
from .segments import INLINE, META, ROW, ROW_BYTES, SegmentEntry, fidelity_of, parse_rows
from .slab import MAX_EXTENTS, PAGE_BYTES, SLOT_BYTES, Extent, pages_for

VERSION = 1
MAGIC = b"KVSTRATA"
FIXED_BYTES = 192
EXTENT_BYTES = 8

_PREFIX = struct.Struct("<8sQ")
_FIXED = struct.Struct("<HHI32s32s16s16s5B3sIIQQddQHH12s")  # behind magic and checksum
_PACKED = "<HHI32s32s16s16s5B3xIIQQddQHH12x"
_EXTENT = struct.Struct("<II")
_CHECKSUMS = 1
_MAX_GROUP = 254
_MAX_POSITION = 1 << 63
_MAX_GENERATION = 1 << 63  # the next ones must fit their field, too
_BLOCK, _CHUNK, _ENGINE = map(int, KeyKind)
_ZERO3, _ZERO12 = bytes(3), bytes(12)


class Header(NamedTuple):
    """A frame's header; the first 14 fields are in the order of its bytes."""

    key: bytes
    parent: bytes
    root: bytes  # first 16 bytes of h0
    tenant: bytes  # 16 bytes, keys.tenant_id
    group: int
    shard: int
    shards: int
    fidelity: int
    kind: int  # KeyKind
    tokens: int
    position: int  # of the first token in its chain
    generation: int
    expiry: float  # unix seconds, 0 for never
    saved: float  # unix seconds
    segments: tuple[SegmentEntry, ...]
    extents: tuple[Extent, ...] = ()
    inline: bytes = b""  # what the inline segments hold; empty in what parse_record read
    has_checksums: bool = False  # of the payload's segments

    @property
    def part(self) -> Part:
        """Which shard of which group."""
        return Part(self.group, self.shard)

    @property
    def frame_id(self) -> FrameId:
        """Key and part, 34 bytes."""
        return frame_id(self.key, self.part)

    @property
    def payload_bytes(self) -> int:
        """Bytes that lie in the pages."""
        return sum(s.length for s in self.segments if not s.flags & INLINE)


def checksum(frame: FrameId, data: bytes | memoryview) -> int:
    """xxh3-64 of a segment's bytes, seeded with the frame that they belong to."""
    return xxh3_64_intdigest(data, _seed(frame, frame[32], frame[33]))


def arrange(
    frame: FrameId, meta: bytes, segments: Iterable[SegmentEntry]
) -> tuple[tuple[SegmentEntry, ...], bytes]:
    """Lay out a frame: its rows, the meta segment first, and its inline bytes.

    ``meta`` is what ``encode_meta`` made; of ``segments`` the lengths count, not the offsets.  The
    meta segment lies inline where it fits beside the most extents that a frame may have; otherwise
    the inline bytes are empty and ``meta`` is to be written at the payload's beginning.
    """
    rest = tuple(segments)
    if not fits(1 + len(rest), 0):
        raise ArgumentError(f"{len(rest)} segments do not fit the header of a frame")
    is_inline = fits(1 + len(rest), len(meta))
    flags, taken = (INLINE, checksum(frame, meta)) if is_inline else (0, 0)
    rows = [SegmentEntry(META, flags, length=len(meta), checksum=taken)]
    at = 0 if is_inline else len(meta)
    for row in rest:
        rows.append(row if row.offset == at else row._replace(offset=at))
        at += row.length
    return tuple(rows), meta if is_inline else b""


def fits(segments: int, inline: int) -> bool:
    """Whether a header has a slot's room for so much, wherever its payload comes to lie."""
    most = FIXED_BYTES + ROW_BYTES * segments + EXTENT_BYTES * MAX_EXTENTS
    return most + inline <= SLOT_BYTES


def encode(header: Header, slab: int = 0) -> bytes:
    """Header and inline bytes; ``slab`` is the slab's seed, 0 outside a slab.

    Raises ``ArgumentError`` for what does not fit a header slot or has not its field's length, and
    ``struct.error`` for a number that does not fit its field.
    """
    (
        key, parent, root, tenant, group, shard, shards, fidelity, kind, tokens,
        position, generation, expiry, saved, segments, extents, inline, has_checksums,
    ) = header  # fmt: skip
    lengths = [0, 0]  # payload, inline
    flat: list[int] = []
    for row in segments:
        flat += row
        lengths[row[1] & INLINE] += row[8]
    for run in extents:
        flat += run
    rows, runs = len(segments), len(extents)
    length = FIXED_BYTES + ROW_BYTES * rows + EXTENT_BYTES * runs
    if length + len(inline) > SLOT_BYTES or len(inline) != lengths[1]:
        raise ArgumentError(f"{length} + {len(inline)} bytes are no header of {lengths[1]} inline")
    if not (len(key) == len(parent) == 32 and len(root) == len(tenant) == 16):
        raise ArgumentError("key and parent have 32 bytes, root and tenant 16")
    body = _shape(rows, runs).pack(
        VERSION, _CHECKSUMS if has_checksums else 0, length, key, parent, root, tenant, group,
        shard, shards, fidelity, kind, tokens, len(inline), position, generation, expiry, saved,
        lengths[0], rows, runs, *flat,
    )  # fmt: skip
    return _PREFIX.pack(MAGIC, xxh3_64_intdigest(body, slab)) + body + inline


def parse(data: bytes | memoryview, *, pages: int = 0, slab: int = 0) -> Header:
    """Read a header and its inline bytes; what follows them is not looked at.

    ``pages`` is how many the slab has and ``slab`` its seed, both 0 outside a slab, where a frame
    has no extents.  Raises ``FrameError``.
    """
    header = _parse_header(memoryview(data), pages, slab, is_record=False)
    seed = _seed(header.key, header.group, header.shard)
    for row in header.segments:
        if row.flags & INLINE:
            found = header.inline[row.offset : row.offset + row.length]
            if xxh3_64_intdigest(found, seed) != row.checksum:
                raise FrameError("an inline segment does not match its checksum")
    return header


def parse_record(data: bytes | memoryview, *, pages: int = 0, slab: int = 0) -> Header:
    """Read a header without its inline bytes, and nothing more; ``inline`` stays empty."""
    return _parse_header(memoryview(data), pages, slab, is_record=True)


def verify_key(header: Header, meta: bytes | memoryview | None = None) -> Meta:
    """The meta segment, if parent, tokens and extras give the header's key; else FrameError.

    ``meta`` is the meta segment where it does not lie inline.
    """
    first = header.segments[0]
    if meta is None:
        if not first.is_inline:
            raise FrameError("the meta segment lies in the payload")
        meta = header.inline[: first.length]
    found = parse_meta(meta)
    count = len(found.tokens) // 4
    if count != header.tokens and (count or header.kind != _ENGINE):
        raise FrameError(f"{count} tokens in the meta segment, {header.tokens} in the header")
    try:
        key = recompute(KeyKind(header.kind), header.parent, found.tokens, found.extras)
    except ArgumentError as exc:
        raise FrameError(f"the key cannot be recomputed: {exc}") from exc
    if key != header.key:
        raise FrameError("parent, tokens and extras do not give the header's key")
    return found


def verify_segment(header: Header, number: int, data: bytes | memoryview) -> None:
    """Raise FrameError unless ``data`` is what the segment table says of segment ``number``."""
    row = header.segments[number]
    if memoryview(data).nbytes != row.length:
        raise FrameError(f"segment {number} has {row.length} bytes")
    if not (row.is_inline or header.has_checksums):
        raise FrameError(f"segment {number} has no checksum: it never left its process's memory")
    if checksum(header.frame_id, data) != row.checksum:
        raise FrameError(f"segment {number} does not match its checksum")


def with_checksums(header: Header, checksums: Sequence[int]) -> Header:
    """The header with the checksums of its payload segments, in their order."""
    taken = iter(checksums)
    rows = tuple(s if s.is_inline else s._replace(checksum=next(taken)) for s in header.segments)
    return header._replace(segments=rows, has_checksums=True)


def locate(header: Header, number: int) -> tuple[tuple[Extent, ...], int]:
    """The runs of pages that segment ``number`` touches, and where in the first page it begins."""
    row = header.segments[number]
    first, end = row.offset // PAGE_BYTES, pages_for(row.offset + row.length)
    return _runs(header.extents, first, end), row.offset - first * PAGE_BYTES


def without_trailing(header: Header, keep: int) -> Header:
    """The frame with its first ``keep`` segments: what they give, in the pages that they need.

    Pages that are no longer in ``extents`` are free.  Raises ``ArgumentError`` where a base would
    be lost.
    """
    rows = header.segments[:keep]
    lost = header.segments[len(rows) :]
    if not rows or any(s.kind == BASE for s in lost):
        raise ArgumentError(f"the first {keep} segments do not hold all bases")
    shorter = header._replace(
        segments=rows,
        inline=header.inline[: sum(s.length for s in rows if s.is_inline)],
        fidelity=min(header.fidelity, fidelity_of(rows)),
    )
    return shorter._replace(extents=_runs(header.extents, 0, pages_for(shorter.payload_bytes)))


@lru_cache(256)
def _shape(rows: int, runs: int) -> struct.Struct:
    """All of a header behind its checksum, so that one call packs it."""
    return struct.Struct(_PACKED + ROW * rows + "II" * runs)


def _seed(key: bytes, group: int, shard: int) -> int:
    """The frame's seed: right bytes in the wrong place do not verify."""
    return int.from_bytes(key[:8], "little") ^ (group << 8 | shard)


def _parse_header(view: memoryview, pages: int, slab: int, *, is_record: bool) -> Header:
    """A header, with its inline bytes (not yet verified) unless it is a record."""
    if len(view) < FIXED_BYTES:
        raise FrameError(f"{len(view)} bytes are too few for a header")
    magic, expected = _PREFIX.unpack_from(view)
    fields = _FIXED.unpack_from(view, _PREFIX.size)
    version, flags, length = fields[:3]
    payload, rows, runs, reserved = fields[19:]
    if magic != MAGIC or version != VERSION:
        raise FrameError("no frame of ours" if magic != MAGIC else f"frame version {version}")
    if length != FIXED_BYTES + ROW_BYTES * rows + EXTENT_BYTES * runs or length > len(view):
        raise FrameError(f"a header of {length} bytes, {rows} segments and {runs} extents")
    if xxh3_64_intdigest(view[_PREFIX.size : length], slab) != expected:
        raise FrameError("the header does not match its checksum")
    inline: int = fields[14]
    if length + inline > (SLOT_BYTES if is_record else min(SLOT_BYTES, len(view))):
        raise FrameError(f"{inline} inline bytes behind a header of {length} do not fit")
    if is_record and length != len(view):
        raise FrameError(f"{len(view) - length} bytes follow the header's end")
    if flags & ~_CHECKSUMS or fields[12] != _ZERO3 or reserved != _ZERO12:
        raise FrameError("reserved flags or bytes are set")
    has_checksums = flags == _CHECKSUMS
    table = FIXED_BYTES + ROW_BYTES * rows
    segments = parse_rows(
        view[FIXED_BYTES:table],
        inline_bytes=inline,
        payload_bytes=payload,
        has_checksums=has_checksums,
    )
    extents = tuple(_EXTENT.iter_unpack(view[table:length]))
    behind = b"" if is_record else bytes(view[length : length + inline])
    numbers = (*fields[3:12], fields[13], *fields[15:19])
    header = Header._make((*numbers, segments, extents, behind, has_checksums))
    _check_fields(header)
    _check_extents(extents, pages, payload)
    return header


def _check_fields(h: Header) -> None:
    """Refuse numbers that no writer of ours writes."""
    _, parent, root, _, group, shard, shards, fidelity, kind, tokens, position, *_ = h
    if kind > _ENGINE or group > _MAX_GROUP or shard >= shards or tokens < 1:
        raise FrameError("the header's key kind, group, shard or number of tokens cannot be")
    if position >= _MAX_POSITION or (kind == _CHUNK and position):
        raise FrameError(f"the header's position {position} cannot be")
    if h.generation >= _MAX_GENERATION:
        raise FrameError(f"no store counts up to generation {h.generation}")
    if kind == _BLOCK and position % tokens:
        raise FrameError(f"position {position} is no multiple of {tokens} tokens")
    if (parent[:16] == root) != (kind != _BLOCK or position == 0):
        raise FrameError("the header's parent is not what its position asks for")
    if not (0 <= h.expiry < inf and 0 <= h.saved < inf):
        raise FrameError("the header's times are no times")
    if fidelity > fidelity_of(h.segments):
        raise FrameError("the header claims more fidelity than its segments give")


def _check_extents(extents: tuple[Extent, ...], pages: int, payload_bytes: int) -> None:
    if not pages:
        if extents:
            raise FrameError("a frame outside a slab has extents")
        return
    end = total = 0
    for page, count in sorted(extents) if len(extents) > 1 else extents:
        if count < 1 or page < end or page + count > pages:
            raise FrameError(f"the run of {count} pages at {page} overlaps or leaves the slab")
        end = page + count
        total += count
    if total != pages_for(payload_bytes):
        raise FrameError(f"the extents are not the pages that {payload_bytes} bytes need")


def _runs(extents: tuple[Extent, ...], first: int, end: int) -> tuple[Extent, ...]:
    """The part of ``extents`` that holds the payload's pages of the half-open range."""
    at, found = 0, []
    for page, count in extents:
        low, high = max(first - at, 0), min(end - at, count)
        if low < high:
            found.append((page + low, high - low))
        at += count
    return tuple(found)
