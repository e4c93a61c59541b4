"""SAVE: what an engine computed goes into host memory; the mover takes it from there.

    under the lock      for each block: stored already, or a row and a host slot for it
    without             gather payload into the slots, write headers
    under the lock      publish

Nothing here waits: where no room can be made, the blocks before are stored and the rest is not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ..compression.codec import ATTACHMENT, BASE
from .files import Bytes
from .frame import Header, arrange, encode
from .ghosts import Reason
from .identity import Identity
from .index import NONE
from .keys import KeyKind, tenant_id
from .layout import EXACT, Part
from .meta import Meta, encode_meta
from .pages import Pages
from .parcel import Parcel
from .payload import RAW, cut
from .residency import Residency
from .segments import SegmentEntry

Attachments = Mapping[str, Sequence[Bytes]]
"""By name, one array of uint8 for each block from the first that is saved."""


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms blocks are saved."""

    saved: float  # now, seconds since the epoch
    fidelity: int = EXACT
    expiry: float = 0.0  # seconds since the epoch, 0 for never
    tags: tuple[str, ...] = ()
    attachments: Attachments = field(default_factory=dict)


class Batch(NamedTuple):
    """A prompt's full blocks: keys, and what they were computed from."""

    keys: Sequence[bytes]
    tokens: memoryview  # all tokens, packed as uint32-LE
    extras: Mapping[int, bytes]
    first: int  # block number from which on the engine has KV

    @property
    def blocks(self) -> range:
        """Block numbers to be saved."""
        return range(self.first, len(self.keys))


class _Incoming(NamedTuple):
    """One frame between admission and publication."""

    part: Part
    block: int
    parcel: Parcel
    rows: tuple[SegmentEntry, ...]
    meta: bytes
    inline: bytes  # the meta again, or empty where it lies in the payload


class _Admission(NamedTuple):
    """What a save found under the lock: frames to fill, and rows that only got new tags."""

    incoming: list[_Incoming]
    retagged: list[int]


class Saving:
    """Saves batches for one space.  Any thread may call."""

    def __init__(self, residency: Residency, identity: Identity, parts: Sequence[Part]) -> None:
        self._residency = residency
        self._layout = identity.layout
        self._is_private = identity.is_private
        self._parts = parts
        self._root = identity.root
        self._tenant = tenant_id(identity.tenant)
        with residency.lock:
            self._tenant_number = residency.tenant_number(self._tenant)

    def save(self, batch: Batch, pages: Pages, terms: Terms) -> tuple[int, list[int]]:
        """How many of the prompt's blocks are stored now, and the rows to be written to disk."""
        incoming, retagged = admission = _Admission([], [])
        with self._residency.lock:
            self._residency.on_behalf_of = self._tenant_number
            stored = self._admit(batch, terms, admission)
        is_complete = False
        try:
            self._gather(batch, incoming, pages, terms)
            self._write_headers(batch, incoming, terms)
            is_complete = True
        finally:
            with self._residency.lock:
                rows = self._publish(incoming, terms) if is_complete else self._undo(incoming)
        return stored, rows + retagged

    def _admit(self, batch: Batch, terms: Terms, admission: _Admission) -> int:
        self._touch(batch)
        for block in batch.blocks:
            for part in self._parts:
                if not self._admit_one(batch, block, part, terms=terms, admission=admission):
                    return block
        return len(batch.keys)

    def _touch(self, batch: Batch) -> None:
        """What is stored of this prompt is in use: it is the last to make room for the rest."""
        find = self._residency.index.find_all
        suffixes = [bytes(part) for part in self._parts]
        rows = find([key + suffix for key in batch.keys for suffix in suffixes])
        self._residency.policy.touch([row for row in rows if row != NONE])

    def _admit_one(
        self, batch: Batch, block: int, part: Part, *, terms: Terms, admission: _Admission
    ) -> bool:
        """Whether a frame is stored already, or has a slot now."""
        residency, index = self._residency, self._residency.index
        fid = batch.keys[block] + bytes(part)
        row = index.find(fid)
        if row != NONE and 0 < index.expiry[row] <= terms.saved:
            residency.remove(row, Reason.EXPIRED)
            row = NONE
        if row != NONE and index.fidelity[row] >= terms.fidelity and not residency.is_lost(row):
            residency.extend(row, terms.expiry)
            if residency.tag(row, terms.tags):
                admission.retagged.append(row)
            return True
        # looked up anew for each frame: making room for the one before may have evicted it
        parent = index.find(batch.keys[block - 1] + bytes(part)) if block else NONE
        if block and parent == NONE:
            return False  # nobody could reach this block
        meta = self._meta(batch, block, terms)
        segments, inline = arrange(fid, meta, self._segments(batch, block, part, terms))
        nbytes = sum(s.length for s in segments) - len(inline)
        if row == NONE:
            parcel = residency.admit(fid, parent, nbytes)
        else:
            parcel = residency.admit_better(row, nbytes)
        if parcel is None:
            return False
        if row == NONE:
            self._describe(parcel.row, terms, is_plain=bool(inline))
        admission.incoming.append(_Incoming(part, block, parcel, segments, meta, inline))
        return True

    def _describe(self, row: int, terms: Terms, *, is_plain: bool) -> None:
        residency, index = self._residency, self._residency.index
        index.tokens[row] = self._layout.block_tokens
        index.tenant[row] = self._tenant_number
        index.fidelity[row] = terms.fidelity
        index.plain[row] = is_plain
        residency.limit(row, terms.expiry)
        residency.marks.tag(row, terms.tags)
        if self._is_private:
            index.private.add(row)

    def _meta(self, batch: Batch, block: int, terms: Terms) -> bytes:
        step = 4 * self._layout.block_tokens
        tokens = bytes(batch.tokens[block * step : (block + 1) * step])
        extras = batch.extras.get(block, b"")
        return encode_meta(Meta(tokens, extras, terms.tags, tuple(terms.attachments)))

    def _segments(self, batch: Batch, block: int, part: Part, terms: Terms) -> list[SegmentEntry]:
        layers = len(self._layout.groups[part.group].layers)
        length = self._layout.frame_bytes(part.group, self._layout.block_tokens)
        base = SegmentEntry(BASE, 0, RAW, 0, layers, 0, EXACT, 0, length)
        return [base] + [
            SegmentEntry(ATTACHMENT, length=arrays[block - batch.first].nbytes, fidelity=EXACT)
            for arrays in terms.attachments.values()
        ]

    def _gather(
        self, batch: Batch, incoming: Sequence[_Incoming], pages: Pages, terms: Terms
    ) -> None:
        for part in self._parts:
            here = [frame for frame in incoming if frame.part == part]
            if not here:
                continue
            targets = [self._base_pieces(frame) for frame in here]
            views = [p[0] if len(p) == 1 else np.empty(_length(p), np.uint8) for p in targets]
            pages.gather(part, [frame.block for frame in here], views)
            for view, pieces in zip(views, targets, strict=True):
                if len(pieces) > 1:
                    _spread(view, pieces)
        for frame in incoming:
            self._write_rest(batch, frame, terms)

    def _base_pieces(self, frame: _Incoming) -> list[Bytes]:
        base = next(s for s in frame.rows if s.kind == BASE)
        pieces = self._residency.host.pieces(frame.parcel.slot, frame.parcel.nbytes)
        return cut(pieces, base.offset, base.length)

    def _write_rest(self, batch: Batch, frame: _Incoming, terms: Terms) -> None:
        """What stands beside the base in the payload: a long meta segment, attachments."""
        rest = [] if frame.inline else [np.frombuffer(frame.meta, np.uint8)]
        rest += [arrays[frame.block - batch.first] for arrays in terms.attachments.values()]
        segments = [s for s in frame.rows if s.kind != BASE and not s.is_inline]
        for segment, data in zip(segments, rest, strict=True):
            pieces = self._residency.host.pieces(frame.parcel.slot, frame.parcel.nbytes)
            _spread(data, cut(pieces, segment.offset, segment.length))

    def _write_headers(self, batch: Batch, incoming: Sequence[_Incoming], terms: Terms) -> None:
        host = self._residency.host
        seed = host.superblock.seed
        for part, block, parcel, rows, _, inline in incoming:
            header = Header(
                batch.keys[block],
                batch.keys[block - 1] if block else self._root,
                self._root[:16],
                self._tenant,
                part.group,
                part.shard,
                self._layout.group_shards(part.group),
                terms.fidelity,
                KeyKind.BLOCK,
                self._layout.block_tokens,
                block * self._layout.block_tokens,
                parcel.generation,
                terms.expiry,
                terms.saved,
                rows,
                host.slab.extents(parcel.slot),
                inline,
            )
            host.write_header(parcel.slot, encode(header, seed))

    def _publish(self, incoming: Sequence[_Incoming], terms: Terms) -> list[int]:
        residency = self._residency
        rows = residency.arrive([frame.parcel for frame in incoming])
        for frame in incoming:
            row, generation, _, _, replaces = frame.parcel
            if replaces and residency.is_current(row, generation):
                self._describe(row, terms, is_plain=bool(frame.inline))
                residency.counters.replaced += 1
        residency.counters.saved += len(rows)
        residency.counters.saved_bytes += sum(frame.parcel.nbytes for frame in incoming)
        return rows

    def _undo(self, incoming: Sequence[_Incoming]) -> list[int]:
        self._residency.abandon([frame.parcel for frame in incoming])
        return []


def _length(pieces: Sequence[Bytes]) -> int:
    return sum(piece.nbytes for piece in pieces)


def _spread(data: Bytes, pieces: Sequence[Bytes]) -> None:
    start = 0
    for piece in pieces:
        np.copyto(piece, data[start : start + piece.nbytes])
        start += piece.nbytes
