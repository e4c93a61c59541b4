"""The first 4096 bytes of a slab: what it is, how large, and whose (docs/format.md, "Slab")."""

import os
import struct
import time
from dataclasses import dataclass

import xxhash

from .errors import FrameError
from .slab import PAGE_BYTES, SLOT_BYTES

_MAGIC = b"KVSLAB\0\0"
_VERSION = 1
_LAYOUT = struct.Struct("<8sHHIIQQ16s16sd")  # ... slots, pages, slab, store, created
_CHECKSUM = struct.Struct("<Q")
_MOST_PAGES = 1 << 32  # extents count pages in 32 bits


@dataclass(frozen=True, slots=True)
class Superblock:
    """Geometry and identity of a slab; ``store`` is shared by all slabs of one store."""

    slots: int
    pages: int
    slab: bytes
    store: bytes
    created: float

    @property
    def seed(self) -> int:
        """What this slab's header checksums are seeded with."""
        return int.from_bytes(self.slab[:8], "little")

    @classmethod
    def new(cls, slots: int, pages: int, *, store: bytes = bytes(16)) -> "Superblock":
        """A superblock for a slab that is made now."""
        return cls(slots, pages, os.urandom(16), store, time.time())

    def encode(self) -> bytes:
        """The 4096 bytes."""
        fields = _LAYOUT.pack(
            _MAGIC, _VERSION, 0, PAGE_BYTES, SLOT_BYTES, self.slots, self.pages,
            self.slab, self.store, self.created,
        )  # fmt: skip
        return (fields + _CHECKSUM.pack(xxhash.xxh3_64_intdigest(fields))).ljust(SLOT_BYTES, b"\0")

    @classmethod
    def parse(cls, data: bytes | memoryview) -> "Superblock":
        """Read a superblock; FrameError says why it is none."""
        data = bytes(data)
        if len(data) < _LAYOUT.size + _CHECKSUM.size or data[:8] != _MAGIC:
            raise FrameError("no slab of ours: the superblock's magic is missing")
        fields = data[: _LAYOUT.size]
        if _CHECKSUM.unpack_from(data, _LAYOUT.size)[0] != xxhash.xxh3_64_intdigest(fields):
            raise FrameError("the superblock's checksum does not match")
        _, version, flags, page, slot, slots, pages, slab, store, created = _LAYOUT.unpack(fields)
        if (version, page, slot) != (_VERSION, PAGE_BYTES, SLOT_BYTES):
            raise FrameError(f"slab version {version}, pages of {page}, slots of {slot}: not ours")
        if flags or pages > _MOST_PAGES:
            raise FrameError(f"a slab of {pages} pages with the flags {flags:#x}: not ours")
        return cls(slots, pages, slab, store, created)
