"""One block's way from host memory to disk: checksum, encode, make room, write, enter in the books.

The host copy is leased meanwhile and becomes a clean victim when it is done.  Its checksums are
taken here, behind the save, and written into the host header too, so that a process that inherits
the slab can believe it.  A block that is on disk already only gets a header that says what was
said of it since: tags, a longer life.
"""

import threading
from typing import NamedTuple

from ..compression.codec import Bytes, Codec
from .errors import FrameError, TierError
from .files import aligned
from .frame import EXTENT_BYTES, Header, checksum, encode, parse
from .index import ABSENT, DISK, HOST
from .layout import Layout
from .meta import encode_meta, parse_meta
from .payload import RAW, Sealed, compress, seal, sectors
from .residency import Residency
from .slab import MAX_EXTENTS, SLOT_BYTES
from .tier import Place


class _Job(NamedTuple):
    """A row to be written, its host slot leased."""

    row: int
    generation: int
    slot: int
    nbytes: int
    tags: tuple[str, ...]
    expiry: float


class Demotion:
    """Writes rows to disk.  Several threads may call."""

    def __init__(self, residency: Residency, *, codec: Codec, layouts: dict[bytes, Layout]) -> None:
        self._residency = residency
        self._disk = residency.disk
        self._codec = codec
        self._layouts = layouts  # by the root's first 16 bytes: spaces opened in this process
        self._scratch = threading.local()

    def write(self, row: int, generation: int) -> None:
        """Bring a row's copy on disk up to date, if it still is of that generation."""
        residency, index = self._residency, self._residency.index
        with residency.lock:
            if not residency.is_current(row, generation):
                return
            is_stale = row in residency.outdated
            residency.outdated.discard(row)
            tags = residency.marks.tags_of(row)
            place = residency.disk_place(row)
            slot = index.place[HOST][row]
            if place.slot != ABSENT:
                if not is_stale:
                    return
                self._disk.lease(place)
            elif slot == ABSENT:
                return
            else:
                residency.host.slab.lease(slot)
            job = _Job(row, generation, slot, index.nbytes[HOST][row], tags, index.expiry[row])
        if place.slot != ABSENT:
            self._restate(job, place)
        else:
            self._write(job)

    def _write(self, job: _Job) -> None:
        residency = self._residency
        try:
            sealed = self._seal(job)
            packed = self._compress(sealed)
        except FrameError:  # dropped since it was leased: the header is wiped
            with residency.lock:
                residency.release(job.row, job.generation, job.slot)
            return
        place = self._reserve(job, sealed, packed.header.payload_bytes)
        record = self._try_write(place, packed) if place is not None else b""
        with residency.lock:
            is_wanted = self._is_wanted(job)
            if place is not None:
                self._disk.release(place)
                if record and is_wanted:
                    residency.settle(job.row, place, packed.header.payload_bytes)
                    self._disk.remember(packed.header.frame_id, record, job.tags)
                    place = None
            residency.release(job.row, job.generation, job.slot)
        if place is not None:
            self._undo(place, was_written=bool(record))

    def _reserve(self, job: _Job, sealed: Sealed, nbytes: int) -> Place | None:
        residency, host = self._residency, self._residency.host
        with residency.lock:
            if not self._is_wanted(job):
                return None
            host.write_header(job.slot, encode(sealed.header, host.superblock.seed))
            if not self._disk.takes_writes:
                return None  # memory is all there is; its checksums are taken all the same
            place = residency.take_disk(nbytes)
            if place is None:
                residency.counters.failed_writes += 1
            else:
                self._disk.lease(place)
            return place

    def _is_wanted(self, job: _Job) -> bool:
        place = self._residency.index.place[DISK]
        return self._residency.is_current(job.row, job.generation) and place[job.row] == ABSENT

    def _seal(self, job: _Job) -> Sealed:
        host = self._residency.host
        pieces = host.pieces(job.slot, sectors(job.nbytes))
        header = parse(host.header(job.slot), pages=host.slab.pages, slab=host.superblock.seed)
        return Sealed(seal(restated(header, job.tags, job.expiry), pieces), pieces)

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

    def _undo(self, place: Place, *, was_written: bool) -> None:
        """Give a place back; what was dropped meanwhile must leave no header behind."""
        if was_written:
            try:
                self._disk.wipe(place)
            except TierError as error:
                self._disk.stripes[place.stripe].breaker.failure(str(error))
        with self._residency.lock:
            self._residency.counters.failed_writes += not was_written
            self._disk.give(place)

    def _restate(self, job: _Job, place: Place) -> None:
        """Write a leased place's header anew, with what was said of the block since."""
        residency = self._residency
        try:
            header = restated(self._disk.read_header(place), job.tags, job.expiry)
            record = self._disk.write_header(place, header)
            with residency.lock:
                is_wanted = residency.is_current(job.row, job.generation)
                if is_wanted:
                    self._disk.remember(header.frame_id, record, job.tags)
            if not is_wanted:
                self._disk.wipe(place)  # dropped meanwhile: it must leave no header behind
        except TierError as error:
            self._disk.stripes[place.stripe].breaker.failure(str(error))
        except FrameError:
            pass  # damaged or dropped: whoever reads it finds out
        finally:
            with residency.lock:
                self._disk.release(place)

    def _buffer(self, nbytes: int) -> Bytes:
        buffer: Bytes | None = getattr(self._scratch, "buffer", None)
        if buffer is None or buffer.nbytes < nbytes:
            buffer = self._scratch.buffer = aligned(sectors(nbytes))
        return buffer[:nbytes]


def restated(header: Header, tags: tuple[str, ...], expiry: float) -> Header:
    """The header with this expiry and, where its slot has room for them, these tags."""
    header = header._replace(expiry=expiry)
    first = header.segments[0]
    if not first.is_inline:
        return header
    old = parse_meta(header.inline[: first.length])
    meta = encode_meta(old._replace(tags=tags))
    if old.tags == tags or len(meta) - first.length > _room(header):
        return header
    longer = first._replace(length=len(meta), checksum=checksum(header.frame_id, meta))
    return header._replace(segments=(longer, *header.segments[1:]), inline=meta)


def _room(header: Header) -> int:
    """Bytes that are left in the header's slot, the longest list of extents reckoned in."""
    return SLOT_BYTES - len(encode(header._replace(extents=()))) - EXTENT_BYTES * MAX_EXTENTS
