"""One block's way from host memory to disk: checksum, encode, make room, write, enter in the books.

The host copy is leased meanwhile and becomes a clean victim when it is done.  Its checksums are
taken here, behind the save, and written into the host header too, so that a process that inherits
the slab can believe it.
"""

import threading

from ..compression.codec import Bytes, Codec
from .disk import DiskTier, join_tags
from .errors import TierError
from .files import aligned
from .frame import encode, parse
from .index import ABSENT, DISK, HOST
from .layout import Layout
from .payload import RAW, Sealed, compress, seal, sectors
from .residency import Residency
from .tier import Place


class Demotion:
    """Writes rows to disk.  Several threads may call."""

    def __init__(
        self, residency: Residency, disk: DiskTier, *, codec: Codec, layouts: dict[bytes, Layout]
    ) -> None:
        self._residency = residency
        self._disk = disk
        self._codec = codec
        self._layouts = layouts  # by the root's first 16 bytes: spaces opened in this process
        self._scratch = threading.local()

    def write(self, row: int, generation: int) -> bool:
        """Write one row; True if it is on disk afterwards."""
        residency = self._residency
        index = residency.index
        with residency.lock:
            if not residency.is_current(row, generation):
                return False
            slot, nbytes = index.place[HOST][row], index.nbytes[HOST][row]
            if slot == ABSENT or index.place[DISK][row] != ABSENT:
                return slot == ABSENT
            residency.host.slab.lease(slot)
        try:
            return self._write_leased(row, generation, slot, nbytes)
        finally:
            with residency.lock:
                residency.release(row, generation, slot)

    def _write_leased(self, row: int, generation: int, slot: int, nbytes: int) -> bool:
        residency = self._residency
        sealed = self._seal(slot, nbytes)
        packed = self._compress(sealed)
        length = packed.header.payload_bytes
        with residency.lock:
            if not residency.is_current(row, generation):
                return False
            self._residency.host.write_header(slot, self._host_header(sealed))
            place = residency.take_disk(length)
            if place is None:
                residency.counters.failed_writes += 1
                return False
            self._disk.lease(place)
        record = self._try_write(place, packed)
        with residency.lock:
            self._disk.release(place)
            if record and residency.is_current(row, generation):
                residency.settle(row, place, length)
                residency.counters.demoted += 1
                residency.counters.demoted_bytes += length
                self._disk.catalog.put(
                    packed.header.frame_id, record + join_tags(residency.tags_of(row))
                )
                return True
        self._undo(place, packed, was_written=bool(record))
        return False

    def _undo(self, place: Place, packed: Sealed, *, was_written: bool) -> None:
        """Give a place back; what was dropped meanwhile must leave no header behind."""
        if was_written:
            try:
                self._disk.wipe(place)
            except TierError as error:
                self._disk.stripes[place.stripe].breaker.failure(str(error))
        with self._residency.lock:
            self._residency.counters.failed_writes += 1
            self._disk.give(place, packed.header.frame_id)

    def _seal(self, slot: int, nbytes: int) -> Sealed:
        host = self._residency.host
        pieces = host.pieces(slot, sectors(nbytes))
        header = parse(host.header(slot), pages=host.slab.pages, slab=host.superblock.seed)
        return Sealed(seal(header, pieces), pieces)

    def _host_header(self, sealed: Sealed) -> bytes:
        return encode(sealed.header, self._residency.host.superblock.seed)

    def _compress(self, sealed: Sealed) -> Sealed:
        layout = self._layouts.get(sealed.header.root)
        if self._codec.number == RAW or layout is None:
            return sealed
        return compress(sealed, self._codec, layout, self._buffer)

    def _try_write(self, place: Place, sealed: Sealed) -> bytes:
        """The catalog's record of the frame, empty where it could not be written."""
        breaker = self._disk.stripes[place.stripe].breaker
        try:
            record = self._disk.write(place, sealed.header, sealed.payload)
        except TierError as error:
            breaker.failure(str(error))
            return b""
        breaker.success()
        return record

    def _buffer(self, nbytes: int) -> Bytes:
        buffer: Bytes | None = getattr(self._scratch, "buffer", None)
        if buffer is None or buffer.nbytes < nbytes:
            buffer = self._scratch.buffer = aligned(sectors(nbytes))
        return buffer[:nbytes]
