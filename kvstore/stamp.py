"""The headers of one save: all alike but for a few fields, so only those are written for each.

Making a header from its fields costs 9 us.  A stamp is made once for all blocks that are alike and
kept between saves; to press it is to put the fields that differ between the stretches of bytes that
do not, at 1.5 us.  Offsets are those of docs/format.md.
"""

import struct
from collections.abc import Sequence
from itertools import chain

from xxhash import xxh3_64_intdigest

from .frame import FIXED_BYTES, Header, encode
from .segments import ROW_BYTES
from .slab import Extent

_WORD = struct.Struct("<Q")
_COVERED_AT = 16  # where the checksum's bytes begin
_KEYS_AT, _KEYS_END = 24, 88
_CHAIN_AT, _CHAIN_END = 136, 168  # position, generation, expiry, saved
_META_CHECKSUM_AT = FIXED_BYTES + 32


Imprint = tuple[bytes, bytes, int, int, bytes]
"""What tells one header of a save from another: key, parent, position, generation, tokens."""
Life = tuple[float, float]
"""Expiry, 0 for never, and when it is saved: what the headers of a save share."""


class Stamp:
    """Headers whose segments, tags and number of runs are those of ``pattern``.

    ``meta`` is what stands before and behind the tokens in the meta segment, which lies inline or
    in the payload.  Any thread may press it.
    """

    def __init__(self, pattern: Header, meta: tuple[bytes, bytes], slab: int) -> None:
        data = encode(pattern, slab)
        end = FIXED_BYTES + ROW_BYTES * len(pattern.segments)
        self._stretches = (
            data[_COVERED_AT:_KEYS_AT],
            data[_KEYS_END:_CHAIN_AT],
            data[_CHAIN_END:_META_CHECKSUM_AT],
            data[_META_CHECKSUM_AT + _WORD.size : end],
        )
        before, between, middle, behind = map(len, self._stretches)
        extents = 2 * len(pattern.extents)
        self._body = struct.Struct(f"<{before}s32s32s{between}sQQdd{middle}sQ{behind}s{extents}I")
        self._head = data[: _WORD.size]
        self._meta = meta if pattern.inline else None
        self._salt = pattern.group << 8 | pattern.shard
        self._slab = slab

    def press(self, imprint: Imprint, extents: Sequence[Extent], life: Life) -> bytes:
        """The header with its inline bytes."""
        key, parent, position, generation, tokens = imprint
        before, between, middle, behind = self._stretches
        meta, checksum = b"", 0
        if self._meta is not None:
            meta = tokens.join(self._meta)
            checksum = xxh3_64_intdigest(meta, _WORD.unpack_from(key)[0] ^ self._salt)
        body = self._body.pack(
            before, key, parent, between, position, generation, *life, middle, checksum, behind,
            *chain.from_iterable(extents),
        )  # fmt: skip
        covered = xxh3_64_intdigest(body, self._slab)
        return self._head + _WORD.pack(covered) + body + meta
