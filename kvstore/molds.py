"""How the frames of a save are laid out: blocks that are alike share a mold.

Of a save's blocks nearly all differ only in key, tokens and place, so what a frame's header says is
worked out once for all saves on the same terms, and stamped for each block (``stamp.py``).  A block
with extras or attachments has a mold of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ..compression.codec import ATTACHMENT, BASE
from .files import Bytes
from .frame import Header, arrange
from .host import HostTier
from .identity import Identity
from .keys import FRAME_ID_BYTES, KeyKind, tenant_id
from .layout import EXACT, Part
from .meta import Meta, encode_meta
from .parcel import Parcels
from .payload import RAW, cut
from .segments import SegmentEntry
from .stamp import Imprints, Stamp

Attachments = Mapping[str, Sequence[Bytes]]
"""By name, one array of uint8 for each block from the first that is saved."""

_KEPT = 64  # molds that are kept between saves


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms blocks are saved."""

    saved: float  # now, seconds since the epoch
    fidelity: int = EXACT
    expiry: float = 0.0  # seconds since the epoch, 0 for never
    tags: tuple[str, ...] = ()
    attachments: Attachments = field(default_factory=dict)


class Batch(NamedTuple):
    """What one save is given: a prompt's full blocks, what their keys were computed from, terms."""

    keys: Sequence[bytes]
    tokens: memoryview  # all tokens, packed as uint32-LE
    extras: Mapping[int, bytes]
    first: int  # block number from which on the engine has KV
    terms: Terms


@dataclass(frozen=True, slots=True, eq=False)
class Mold:
    """What the frames of alike blocks have in common."""

    part: Part
    pattern: Header  # of any of them
    base: SegmentEntry
    nbytes: int  # of the payload
    meta: tuple[bytes, bytes]  # what stands before and behind the tokens in the meta segment
    stamps: dict[int, Stamp] = field(default_factory=dict)  # by number of runs of pages

    @property
    def is_plain(self) -> bool:
        """Whether the payload begins with the base."""
        return self.base.offset == 0


class Lot(NamedTuple):
    """Frames of one mold on their way in."""

    mold: Mold
    blocks: list[int]
    parcels: Parcels


class Molds:
    """Lays out the frames of one space.  Any thread may call."""

    def __init__(self, identity: Identity, host: HostTier) -> None:
        self._layout = identity.layout
        self._root = identity.root
        self._tenant = tenant_id(identity.tenant)
        self._host = host
        self._step = 4 * identity.layout.block_tokens
        self._kept: dict[tuple[Part, int, tuple[str, ...]], Mold] = {}

    def sort(self, part: Part, blocks: range, batch: Batch) -> list[tuple[Mold, slice]]:
        """Runs of ``blocks``, as slices of them, that share a mold."""
        terms = batch.terms
        if not (terms.attachments or batch.extras):
            return [(self._shared(part, batch), slice(0, len(blocks)))]
        runs: list[tuple[Mold, slice]] = []
        for n, block in enumerate(blocks):
            is_own = terms.attachments or block in batch.extras
            mold = self._make(part, batch, block) if is_own else self._shared(part, batch)
            start = runs.pop()[1].start if runs and runs[-1][0] is mold else n
            runs.append((mold, slice(start, n + 1)))
        return runs

    def finish(self, lot: Lot, batch: Batch) -> None:
        """Write what stands beside the bases: long meta segments, attachments, headers."""
        mold, blocks, parcels = lot
        if mold.base.length != mold.nbytes:
            for block, slot in zip(blocks, parcels.slots.tolist(), strict=True):
                self._write_rest(mold, block, slot, batch)
        for which, extents in self._host.slab.runs(parcels.slots):
            numbers = np.array(blocks)[which]
            keys, tokens = batch.keys, batch.tokens[: self._step * len(batch.keys)]
            imprints = Imprints(
                keys=[keys[block] for block in numbers.tolist()],
                parents=[keys[block - 1] if block else self._root for block in numbers.tolist()],
                positions=numbers * self._layout.block_tokens,
                generations=parcels.generations[which],
                extents=extents,
                tokens=np.frombuffer(tokens, f"V{self._step}")[numbers],
                saved=batch.terms.saved,
                expiry=batch.terms.expiry,
            )
            headers = self._stamp(mold, extents.shape[1]).press(imprints)
            self._host.write_headers(parcels.slots[which], headers)

    def _shared(self, part: Part, batch: Batch) -> Mold:
        """The mold of all blocks with nothing of their own, kept from save to save."""
        which = part, batch.terms.fidelity, batch.terms.tags
        mold = self._kept.get(which)
        if mold is None:
            if len(self._kept) >= _KEPT:
                self._kept.clear()
            mold = self._kept[which] = self._make(part, batch, None)
        return mold

    def _make(self, part: Part, batch: Batch, block: int | None) -> Mold:
        terms, layout = batch.terms, self._layout
        extras = batch.extras.get(block, b"") if block is not None else b""
        meta = encode_meta(
            Meta(bytes(self._step), extras, tags=terms.tags, names=tuple(terms.attachments))
        )
        segments, inline = arrange(bytes(FRAME_ID_BYTES), meta, self._segments(part, batch, block))
        pattern = Header(
            bytes(32), bytes(32), self._root[:16], self._tenant, part.group, part.shard,
            layout.group_shards(part.group), terms.fidelity, KeyKind.BLOCK,
            layout.block_tokens, 0, 0, 0.0, 0.0, segments, (), inline,
        )  # fmt: skip
        base = next(s for s in segments if s.kind == BASE)
        around = meta[:4], meta[4 + self._step :]
        return Mold(part, pattern, base, pattern.payload_bytes, around)

    def _segments(self, part: Part, batch: Batch, block: int | None) -> list[SegmentEntry]:
        layers = len(self._layout.groups[part.group].layers)
        length = self._layout.frame_bytes(part.group, self._layout.block_tokens)
        rows = [SegmentEntry(BASE, 0, RAW, 0, layers, 0, EXACT, 0, length)]
        if block is not None:
            for arrays in batch.terms.attachments.values():
                nbytes = arrays[block - batch.first].nbytes
                rows.append(SegmentEntry(ATTACHMENT, length=nbytes, fidelity=EXACT))
        return rows

    def _stamp(self, mold: Mold, runs: int) -> Stamp:
        stamp = mold.stamps.get(runs)
        if stamp is None:
            pattern = mold.pattern._replace(extents=((0, 1),) * runs)
            stamp = mold.stamps[runs] = Stamp(pattern, self._host.superblock.seed)
        return stamp

    def _write_rest(self, mold: Mold, block: int, slot: int, batch: Batch) -> None:
        rest = [each[block - batch.first] for each in batch.terms.attachments.values()]
        if not mold.pattern.inline:
            tokens = batch.tokens[block * self._step : (block + 1) * self._step]
            rest.insert(0, np.frombuffer(bytes(tokens).join(mold.meta), np.uint8))
        segments = [s for s in mold.pattern.segments if s.kind != BASE and not s.is_inline]
        pieces = self._host.pieces(slot, mold.nbytes)
        for segment, data in zip(segments, rest, strict=True):
            spread(data, cut(pieces, segment.offset, segment.length))


def spread(data: Bytes, pieces: Sequence[Bytes]) -> None:
    """Copy one array into several, end to end."""
    start = 0
    for piece in pieces:
        np.copyto(piece, data[start : start + piece.nbytes])
        start += piece.nbytes
