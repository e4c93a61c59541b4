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
from .segments import INLINE, META, OPTIONAL, ROW, ROW_BYTES, SegmentEntry, fidelity_of, parse_rows
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
    return xxh3_64_intdigest(
        data, int.from_bytes(frame[:8], "little") ^ (frame[32] << 8 | frame[33])
    )


def arrange(
    frame: FrameId, meta: bytes, segments: Iterable[SegmentEntry]
) -> tuple[tuple[SegmentEntry, ...], bytes]:
    """Lay out a frame: its rows, the meta segment first, and its inline bytes.

    ``meta`` is what ``encode_meta`` made; of ``segments`` the lengths count, not the offsets.  The
    meta segment lies inline where it fits beside the most extents that a frame may have; otherwise
    the inline bytes are empty and ``meta`` is to be written at the payload's beginning.
    """
    rest = tuple(segments)
    fixed = FIXED_BYTES + ROW_BYTES * (1 + len(rest)) + EXTENT_BYTES * MAX_EXTENTS
    is_inline = fixed + len(meta) <= SLOT_BYTES
    flags, taken = (INLINE, checksum(frame, meta)) if is_inline else (0, 0)
    rows = [SegmentEntry(META, flags, length=len(meta), checksum=taken)]
    at = 0 if is_inline else len(meta)
    for row in rest:
        rows.append(row if row.offset == at else row._replace(offset=at))
        at += row.length
    return tuple(rows), meta if is_inline else b""


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
    view = memoryview(data)
    header, length, inline_bytes = _parse_header(view, pages, slab)
    if length + inline_bytes > len(view):
        raise FrameError(f"{inline_bytes} inline bytes where {len(view) - length} are left")
    inline = bytes(view[length : length + inline_bytes])
    for number, row in enumerate(header.segments):
        if row.is_inline:
            verify_segment(header, number, inline[row.offset : row.offset + row.length])
    return header._replace(inline=inline)


def parse_record(data: bytes | memoryview, *, pages: int = 0, slab: int = 0) -> Header:
    """Read a header without its inline bytes, and nothing more; ``inline`` stays empty."""
    header, length, _ = _parse_header(memoryview(data), pages, slab)
    if length != len(data):
        raise FrameError(f"{len(data) - length} bytes follow the header's end")
    return header


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
    if count != header.tokens and (count or header.kind != KeyKind.ENGINE):
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
    if not rows or any(s.kind & ~OPTIONAL == BASE for s in lost):
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


def _parse_header(view: memoryview, pages: int, slab: int) -> tuple[Header, int, int]:
    """A header without its inline bytes, its length, and the length of its inline bytes."""
    if len(view) < FIXED_BYTES:
        raise FrameError(f"{len(view)} bytes are too few for a header")
    magic, expected = _PREFIX.unpack_from(view)
    (
        version, flags, length, key, parent, root, tenant, group, shard, shards, fidelity, kind,
        zero3, tokens, inline, position, generation, expiry, saved, payload, rows, runs, zero12,
    ) = _FIXED.unpack_from(view, _PREFIX.size)  # fmt: skip
    if magic != MAGIC or version != VERSION:
        raise FrameError("no frame of ours" if magic != MAGIC else f"frame version {version}")
    if length != FIXED_BYTES + ROW_BYTES * rows + EXTENT_BYTES * runs or length > len(view):
        raise FrameError(f"a header of {length} bytes, {rows} segments and {runs} extents")
    if xxh3_64_intdigest(view[_PREFIX.size : length], slab) != expected:
        raise FrameError("the header does not match its checksum")
    if length + inline > SLOT_BYTES:
        raise FrameError(f"{length + inline} bytes do not fit a header slot")
    if flags & ~_CHECKSUMS or any(zero3) or any(zero12):
        raise FrameError("reserved flags or bytes are set")
    table = FIXED_BYTES + ROW_BYTES * rows
    segments = parse_rows(
        view[FIXED_BYTES:table],
        inline_bytes=inline,
        payload_bytes=payload,
        has_checksums=bool(flags & _CHECKSUMS),
    )
    extents = tuple(_EXTENT.iter_unpack(view[table:length]))
    header = Header(
        key, parent, root, tenant, group, shard, shards, fidelity, kind, tokens, position,
        generation, expiry, saved, segments, extents, b"", bool(flags & _CHECKSUMS),
    )  # fmt: skip
    _check_fields(header)
    _check_extents(extents, pages, payload)
    return header, length, inline


def _check_fields(h: Header) -> None:
    is_first = h.kind != KeyKind.BLOCK or h.position == 0
    problems = {
        "key kind": h.kind > KeyKind.ENGINE,
        "group or shard": h.group > _MAX_GROUP or h.shard >= h.shards,
        "number of tokens": h.tokens < 1,
        "position": h.position >= _MAX_POSITION
        or (h.kind == KeyKind.CHUNK and h.position > 0)
        or (h.kind == KeyKind.BLOCK and h.tokens > 0 and h.position % h.tokens > 0),
        "parent": (h.parent[:16] == h.root) != is_first,
        "time": not (0 <= h.expiry < inf and 0 <= h.saved < inf),
        "fidelity": h.fidelity > fidelity_of(h.segments),
    }
    for field, is_wrong in problems.items():
        if is_wrong:
            raise FrameError(f"the header's {field} cannot be")


def _check_extents(extents: tuple[Extent, ...], pages: int, payload_bytes: int) -> None:
    if not pages:
        if extents:
            raise FrameError("a frame outside a slab has extents")
        return
    end = 0
    for page, count in sorted(extents):
        if count < 1 or page < end or page + count > pages:
            raise FrameError(f"the run of {count} pages at {page} overlaps or leaves the slab")
        end = page + count
    if sum(count for _, count in extents) != pages_for(payload_bytes):
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
