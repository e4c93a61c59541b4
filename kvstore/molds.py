"""How the frames of one save are laid out: blocks that are alike share a mold.

Of a save's blocks nearly all differ only in key, tokens and place, so what a frame's header says is
worked out once for each part and stamped for each block (``stamp.py``).  Blocks with extras, with
attachments, or in several runs of pages are laid out one by one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ..compression.codec import ATTACHMENT, BASE
from .files import Bytes
from .frame import Header, arrange, encode
from .host import HostTier
from .identity import Identity
from .keys import KeyKind, tenant_id
from .layout import EXACT, Part
from .meta import Meta, encode_meta
from .parcel import Parcel
from .payload import RAW, cut
from .segments import SegmentEntry
from .stamp import Imprint, Stamp

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


class Mold(NamedTuple):
    """What the frames of alike blocks have in common."""

    part: Part
    pattern: Header  # of any of them
    stamp: Stamp | None  # None where the meta segment lies in the payload
    nbytes: int
    base: SegmentEntry


class Molds:
    """Lays out the frames of one save.  One thread has it."""

    def __init__(self, identity: Identity, batch: Batch, terms: Terms, host: HostTier) -> None:
        self._layout = identity.layout
        self._root = identity.root
        self._tenant = tenant_id(identity.tenant)
        self._batch = batch
        self._terms = terms
        self._host = host
        self._step = 4 * identity.layout.block_tokens
        self._shared: dict[Part, Mold] = {}
        plain = encode_meta(
            Meta(bytes(self._step), tags=terms.tags, names=tuple(terms.attachments))
        )
        self._meta_head, self._meta_tail = plain[:4], plain[4 + self._step :]

    def mold(self, part: Part, block: int) -> Mold:
        """The mold of a block's frame."""
        if self._terms.attachments or block in self._batch.extras:
            return self._make(part, block)
        mold = self._shared.get(part)
        if mold is None:
            mold = self._shared[part] = self._make(part, block)
        return mold

    def base_pieces(self, mold: Mold, parcel: Parcel) -> list[Bytes]:
        """Where a frame's base is to be written."""
        pieces = self._host.pieces(parcel.slot, parcel.nbytes)
        if len(pieces) == 1 and mold.base.length == parcel.nbytes:
            return pieces
        return cut(pieces, mold.base.offset, mold.base.length)

    def finish(self, mold: Mold, block: int, parcel: Parcel) -> None:
        """Write what stands beside the base: long meta segment, attachments, header."""
        extents = self._host.slab.extents(parcel.slot)
        meta = self._meta(block)
        if mold.base.length != parcel.nbytes:
            self._write_rest(mold, block, parcel, meta)
        key = self._batch.keys[block]
        parent = self._batch.keys[block - 1] if block else self._root
        position = block * self._layout.block_tokens
        if mold.stamp is not None and len(extents) == 1:
            fid = key + bytes(mold.part)
            header = mold.stamp.press(
                Imprint(fid, parent, position, parcel.generation, extents[0], meta)
            )
        else:
            segments, inline = arrange(key + bytes(mold.part), meta, mold.pattern.segments[1:])
            full = mold.pattern._replace(
                key=key, parent=parent, position=position, generation=parcel.generation,
                segments=segments, inline=inline, extents=extents,
            )  # fmt: skip
            header = bytearray(encode(full, self._host.superblock.seed))
        self._host.write_header(parcel.slot, header)

    def _make(self, part: Part, block: int) -> Mold:
        meta, key = self._meta(block), self._batch.keys[block]
        segments, inline = arrange(key + bytes(part), meta, self._segments(part, block))
        pattern = Header(
            key, key, self._root[:16], self._tenant, part.group, part.shard,
            self._layout.group_shards(part.group), self._terms.fidelity, KeyKind.BLOCK,
            self._layout.block_tokens, 0, 0, self._terms.expiry, self._terms.saved,
            segments, ((0, 1),), inline,
        )  # fmt: skip
        stamp = Stamp(pattern, self._host.superblock.seed) if inline else None
        base = next(s for s in segments if s.kind == BASE)
        return Mold(part, pattern, stamp, pattern.payload_bytes, base)

    def _segments(self, part: Part, block: int) -> list[SegmentEntry]:
        layers = len(self._layout.groups[part.group].layers)
        length = self._layout.frame_bytes(part.group, self._layout.block_tokens)
        base = SegmentEntry(BASE, 0, RAW, 0, layers, 0, EXACT, 0, length)
        return [base] + [
            SegmentEntry(
                ATTACHMENT, length=arrays[block - self._batch.first].nbytes, fidelity=EXACT
            )
            for arrays in self._terms.attachments.values()
        ]

    def _meta(self, block: int) -> bytes:
        tokens = self._batch.tokens[block * self._step : (block + 1) * self._step]
        extras = self._batch.extras.get(block)
        if extras is None:
            return b"".join((self._meta_head, tokens, self._meta_tail))
        names = tuple(self._terms.attachments)
        return encode_meta(Meta(bytes(tokens), extras, self._terms.tags, names))

    def _write_rest(self, mold: Mold, block: int, parcel: Parcel, meta: bytes) -> None:
        arrays = self._terms.attachments.values()
        rest = [each[block - self._batch.first] for each in arrays]
        if mold.stamp is None:
            rest.insert(0, np.frombuffer(meta, np.uint8))
        segments = [s for s in mold.pattern.segments if s.kind != BASE and not s.is_inline]
        pieces = self._host.pieces(parcel.slot, parcel.nbytes)
        for segment, data in zip(segments, rest, strict=True):
            spread(data, cut(pieces, segment.offset, segment.length))


def spread(data: Bytes, pieces: Sequence[Bytes]) -> None:
    """Copy one array into several, end to end."""
    start = 0
    for piece in pieces:
        np.copyto(piece, data[start : start + piece.nbytes])
        start += piece.nbytes
