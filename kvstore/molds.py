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
from .payload import RAW, cut
from .segments import SegmentEntry
from .stamp import Stamp

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
    tokens: bytes  # all of them, packed as uint32-LE
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


class Incoming(NamedTuple):
    """A frame on its way in, and the generation that its row will have."""

    block: int
    mold: Mold
    row: int
    generation: int
    slot: int


class Molds:
    """Lays out the frames of one space.  Any thread may call."""

    def __init__(self, identity: Identity, host: HostTier) -> None:
        self.parts = identity.layout.parts
        self._layout = identity.layout
        self._root = identity.root
        self._tenant = tenant_id(identity.tenant)
        self._host = host
        self._step = 4 * identity.layout.block_tokens
        self._kept: dict[tuple[Part, int, tuple[str, ...]], Mold] = {}

    def shared(self, part: Part, terms: Terms) -> Mold:
        """The mold of all blocks with nothing of their own, kept from save to save."""
        which = part, terms.fidelity, terms.tags
        mold = self._kept.get(which)
        if mold is None:
            if len(self._kept) >= _KEPT:
                self._kept.clear()
            mold = self._kept[which] = self._make(part, terms, b"", [])
        return mold

    def own(self, part: Part, batch: Batch, block: int) -> Mold:
        """The mold of a block with extras or attachments."""
        arrays = [each[block - batch.first] for each in batch.terms.attachments.values()]
        return self._make(part, batch.terms, batch.extras.get(block, b""), arrays)

    def finish(self, frames: Sequence[Incoming], batch: Batch) -> None:
        """Write what stands beside the bases: long meta segments, attachments, headers."""
        host, keys, step = self._host, batch.keys, self._step
        tokens, life = batch.tokens, (batch.terms.expiry, batch.terms.saved)
        for block, mold, _, generation, slot in frames:
            if mold.base.length != mold.nbytes:
                self._write_rest(mold, block, slot, batch)
            parent = keys[block - 1] if block else self._root
            position = block * self._layout.block_tokens
            packed = tokens[block * step : (block + 1) * step]
            extents = host.slab.extents(slot)
            stamp = mold.stamps.get(len(extents)) or self._stamp(mold, len(extents))
            imprint = keys[block], parent, position, generation, packed
            host.write_header(slot, stamp.press(imprint, extents, life))

    def _make(self, part: Part, terms: Terms, extras: bytes, attached: Sequence[Bytes]) -> Mold:
        names = tuple(terms.attachments) if attached else ()
        meta = encode_meta(Meta(bytes(self._step), extras, terms.tags, names))
        rows = self._segments(part, attached)
        segments, inline = arrange(bytes(FRAME_ID_BYTES), meta, rows)
        pattern = Header(
            bytes(32), bytes(32), self._root[:16], self._tenant, part.group, part.shard,
            self._layout.group_shards(part.group), terms.fidelity, KeyKind.BLOCK,
            self._layout.block_tokens, 0, 0, 0.0, 0.0, segments, (), inline,
        )  # fmt: skip
        base = next(s for s in segments if s.kind == BASE)
        around = meta[:4], meta[4 + self._step :]
        return Mold(part, pattern, base, pattern.payload_bytes, around)

    def _segments(self, part: Part, attached: Sequence[Bytes]) -> list[SegmentEntry]:
        layers = len(self._layout.groups[part.group].layers)
        length = self._layout.frame_bytes(part.group, self._layout.block_tokens)
        base = SegmentEntry(BASE, 0, RAW, 0, layers, 0, EXACT, 0, length)
        return [
            base,
            *(SegmentEntry(ATTACHMENT, length=a.nbytes, fidelity=EXACT) for a in attached),
        ]

    def _stamp(self, mold: Mold, runs: int) -> Stamp:
        pattern = mold.pattern._replace(extents=((0, 1),) * runs)
        stamp = mold.stamps[runs] = Stamp(pattern, mold.meta, self._host.superblock.seed)
        return stamp

    def _write_rest(self, mold: Mold, block: int, slot: int, batch: Batch) -> None:
        rest = [each[block - batch.first] for each in batch.terms.attachments.values()]
        if not mold.pattern.inline:
            tokens = batch.tokens[block * self._step : (block + 1) * self._step]
            rest.insert(0, np.frombuffer(tokens.join(mold.meta), np.uint8))
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
