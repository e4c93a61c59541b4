"""The headers of one save: all alike but for a few fields, so only those are written for each.

Making a header from its fields costs 9 us; a save of many blocks makes one for each part and stamps
the others from it at 2 us.  Offsets are those of docs/format.md.
"""

import struct
from typing import NamedTuple

from xxhash import xxh3_64_intdigest

from .frame import EXTENT_BYTES, FIXED_BYTES, Header, checksum, encode
from .segments import ROW_BYTES
from .slab import Extent

_CHECKSUM = struct.Struct("<Q")
_CHECKSUM_AT = 8
_COVERED_AT = 16
_KEYS = struct.Struct("<32s32s")
_KEYS_AT = 24
_CHAIN = struct.Struct("<QQ")  # position, generation
_CHAIN_AT = 136
_META_CHECKSUM_AT = FIXED_BYTES + 32
_EXTENT = struct.Struct("<II")


class Imprint(NamedTuple):
    """What tells one header of a save from another."""

    fid: bytes
    parent: bytes
    position: int
    generation: int
    extent: Extent
    meta: bytes


class Stamp:
    """Headers of one extent whose meta segment, always of the same length, lies inline."""

    def __init__(self, pattern: Header, slab: int) -> None:
        self._data = bytearray(encode(pattern, slab))
        self._view = memoryview(self._data)
        self._slab = slab
        self._end = FIXED_BYTES + ROW_BYTES * len(pattern.segments) + EXTENT_BYTES

    def press(self, imprint: Imprint) -> bytearray:
        """The header; valid until the next call."""
        fid, parent, position, generation, extent, meta = imprint
        data, end = self._data, self._end
        _KEYS.pack_into(data, _KEYS_AT, fid, parent)  # takes the first 32 bytes of the frame id
        _CHAIN.pack_into(data, _CHAIN_AT, position, generation)
        _CHECKSUM.pack_into(data, _META_CHECKSUM_AT, checksum(fid, meta))
        _EXTENT.pack_into(data, end - EXTENT_BYTES, *extent)
        self._view[end:] = meta
        covered = xxh3_64_intdigest(self._view[_COVERED_AT:end], self._slab)
        _CHECKSUM.pack_into(data, _CHECKSUM_AT, covered)
        return data
