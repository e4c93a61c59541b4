"""A disk tier of a million blocks without their payload: what the rows of the index run on.

The slab files keep their superblock and forget everything else, so they take no room, and the
catalog is written record by record, as the store itself writes it.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ..compression.codec import BASE
from ..kvstore.catalog import Catalog
from ..kvstore.disk import RECORD_PREFIX
from ..kvstore.files import ALIGNMENT, Bytes, DirectFile
from ..kvstore.frame import Header, arrange, encode
from ..kvstore.keys import KEY_BYTES, KeyKind
from ..kvstore.layout import EXACT, Group, Layout
from ..kvstore.machine import DiskRoom, disk_room
from ..kvstore.meta import Meta, encode_meta
from ..kvstore.segments import SegmentEntry
from ..kvstore.settings import Settings
from ..kvstore.slab import PAGE_BYTES, PAGES_PER_SLOT, SLOT_BYTES
from ..kvstore.store import Store
from ..kvstore.superblock import Superblock
from .bench_ground import MIB, PART

LAYOUT = Layout((Group((0,), heads=1, head_dim=64, dtype="bfloat16"),), block_tokens=16)
"""A model so small that a block of it is one page."""

_CHAIN = 64  # blocks of one prompt
_SAVED = 1.0  # seconds since the epoch
_ROW_BYTES = 640  # of the memory setting, for each block; half of it is the index's
_HOST_BYTES = 64 * MIB
_MAP_BYTES, _MAP_BYTES_EACH = 64 * MIB, 2048


class HollowFile:
    """A slab file that keeps its first sector and gives zeros for the rest."""

    def __init__(self, path: Path) -> None:
        self._file = DirectFile(path)
        self._path = path

    def read(self, offset: int, into: Sequence[Bytes]) -> None:
        """The first sector, or zeros."""
        if offset == 0 and sum(array.nbytes for array in into) == ALIGNMENT:
            self._file.read(offset, into)
        else:
            for array in into:
                array[:] = 0

    def write(self, offset: int, data: Sequence[Bytes]) -> None:
        """Keep the first sector."""
        if offset == 0 and sum(array.nbytes for array in data) == ALIGNMENT:
            self._file.write(offset, data)

    def sync(self) -> None:
        """Nothing is worth waiting for."""

    def resize(self, nbytes: int) -> None:
        """Say so and take nothing."""
        os.truncate(self._path, nbytes)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


class HollowSettings(Settings):
    """Settings of a disk tier that may be larger than the disk."""

    def check_disk(self, room_of: Callable[[Path], DiskRoom] = disk_room) -> None:
        """Nothing is allocated, so nothing can be missing."""


def hollow_settings(directory: Path, entries: int) -> Settings:
    """A store with room for so many blocks on disk, and for a few thousand in memory."""
    return HollowSettings(
        dir=directory,
        memory=_ROW_BYTES * entries + _HOST_BYTES,
        disk=(entries + 1) * (SLOT_BYTES + PAGES_PER_SLOT * PAGE_BYTES),
        log_level="ERROR",
    )


def write_catalog(directory: Path, entries: int) -> Settings:
    """Make a store whose catalog names so many blocks, none of which was ever saved."""
    settings = hollow_settings(directory, entries)
    Store(settings, open_file=HollowFile).close()
    with (directory / "headers.kvs").open("rb") as headers:
        slab = Superblock.parse(headers.read(SLOT_BYTES))
    catalog = Catalog(directory / "index", map_bytes=_MAP_BYTES + _MAP_BYTES_EACH * entries)
    for fid, record in sorted(_records(entries, slab.seed)):
        catalog.put(fid, record)
    catalog.commit()
    catalog.sync()
    catalog.close()
    return settings


def _records(entries: int, seed: int) -> Iterator[tuple[bytes, bytes]]:
    """What the disk tier enters for blocks in chains, one page each."""
    root, meta = os.urandom(KEY_BYTES), encode_meta(Meta(bytes(4 * LAYOUT.block_tokens)))
    tokens, nbytes = LAYOUT.block_tokens, LAYOUT.frame_bytes(PART.group, LAYOUT.block_tokens)
    base = SegmentEntry(BASE, layer_end=1, fidelity=EXACT, length=nbytes)
    segments, inline = arrange(bytes(KEY_BYTES) + bytes(PART), meta, [base])
    parent = root
    for number in range(entries):
        position = number % _CHAIN
        parent = parent if position else root
        key = os.urandom(KEY_BYTES)
        header = Header(
            key=key,
            parent=parent,
            root=root[:16],
            tenant=bytes(16),
            group=PART.group,
            shard=PART.shard,
            shards=1,
            fidelity=EXACT,
            kind=KeyKind.BLOCK,
            tokens=tokens,
            position=position * tokens,
            generation=number + 1,
            expiry=0.0,
            saved=_SAVED,
            segments=segments,
            extents=((number, 1),),
            inline=inline,
            has_checksums=True,
        )
        encoded = encode(header, seed)
        yield header.frame_id, RECORD_PREFIX.pack(number, 0) + encoded[: len(encoded) - len(inline)]
        parent = key
