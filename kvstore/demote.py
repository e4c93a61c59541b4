"""Blocks' way from host memory to disk: checksum, encode, make room, write, enter in the books.

    under the lock      lease the host copies
    without             checksums, and the codec
    under the lock      places on disk
    without             payloads, then headers: those of neighbouring slots in one write
    under the lock      settled; the host copies are clean victims now

Checksums are taken here, behind the save, and written into the host header too, so that a process
that inherits the slab can believe it.  A block that is on disk already only gets a header that says
what was said of it since: tags, a longer life.
"""

import logging
import threading
from collections.abc import Sequence
from typing import NamedTuple

from ..compression.codec import Bytes, Codec
from .errors import FrameError, TierError
from .files import aligned
from .frame import Header, encode
from .index import ABSENT, DISK, HOST
from .layout import Layout
from .payload import RAW, Sealed, compress, seal, sectors
from .residency import Residency
from .restate import restated
from .tier import Place

_log = logging.getLogger("kvstrata")


class _Job(NamedTuple):
    """A row to be written: its host slot is leased, or where it is on disk already, that place.

    It is of ``generation`` until it is written, and then of ``next_generation``, mostly the same.
    """

    row: int
    fid: bytes
    generation: int
    next_generation: int
    slot: int
    nbytes: int
    tags: tuple[str, ...]
    expiry: float
    place: Place

    @property
    def is_restatement(self) -> bool:
        """Whether only the header is to be written."""
        return self.place.slot != ABSENT


class _Cargo(NamedTuple):
    """A frame ready to be written: as it lies in host memory, and as it is to lie on disk."""

    job: _Job
    sealed: Sealed
    packed: Sealed


class _Buffers(threading.local):
    """What one thread encodes into."""

    def __init__(self) -> None:
        self.by_number: dict[int, Bytes] = {}


class Demotion:
    """Writes rows to disk.  Several threads may call."""

    def __init__(self, residency: Residency, *, codec: Codec, layouts: dict[bytes, Layout]) -> None:
        self._residency = residency
        self._disk = residency.disk
        self._codec = codec
        self._layouts = layouts  # by the root's first 16 bytes: spaces opened in this process
        self._scratch = _Buffers()
        self._busy: set[tuple[int, int]] = set()  # rows and generations that are being written

    def write(self, items: Sequence[tuple[int, int]]) -> None:
        """Bring copies on disk up to date: rows, if they still are of these generations."""
        with self._residency.lock.behind:
            jobs = [job for item in dict.fromkeys(items) if (job := self._begin(*item))]
        if not jobs:
            return
        try:
            written = [job for job in jobs if job.is_restatement and self._restate(job)]
            written += self._write([job for job in jobs if not job.is_restatement])
        finally:
            with self._residency.lock.behind:
                self._end(jobs)
        outdated = self._residency.outdated  # again: more was said while they were written
        self.write([(job.row, job.next_generation) for job in written if job.row in outdated])

    def _write(self, jobs: Sequence[_Job]) -> list[_Job]:
        """Write frames; those that are in the books now."""
        cargo = [c for n, job in enumerate(jobs) if (c := self._pack(job, n)) is not None]
        with self._residency.lock.behind:
            places = [self._reserve(each) for each in cargo]
        placed = [(p, c) for p, c in zip(places, cargo, strict=True) if p is not None]
        records = self._disk.write([(p, c.packed) for p, c in placed])
        written, astray = [], []
        with self._residency.lock.behind:
            for (place, each), record in zip(placed, records, strict=True):
                if self._settle(place, each, record):
                    written.append(each.job)
                else:
                    astray.append((place, record != b""))
        for place, was_written in astray:
            self._undo(place, was_written=was_written)
        return written

    def _end(self, jobs: Sequence[_Job]) -> None:
        """End the jobs' leases."""
        for job in jobs:
            self._busy.discard((job.row, job.generation))
            if job.is_restatement:
                self._residency.release_disk(job.row, job.place)
            else:
                self._residency.release(job.row, job.slot)

    def _begin(self, row: int, generation: int) -> _Job | None:
        """Lease what is to be read or rewritten; None where there is nothing to be done."""
        residency, index = self._residency, self._residency.index
        if not residency.is_current(row, generation) or (row, generation) in self._busy:
            return None
        is_outdated = row in residency.outdated
        renewed = residency.generation_to_write(row) if is_outdated else generation
        if not renewed or row in index.private:
            return None
        place, slot = residency.disk_place(row), index.place[HOST][row]
        if place.slot != ABSENT and is_outdated:
            self._disk.lease(place)
        elif place.slot == ABSENT and slot != ABSENT:
            residency.host.slab.lease(slot)
        else:
            return None
        self._busy.add((row, generation))
        tags, expiry, nbytes = (
            residency.marks.tags_of(row), index.expiry[row], index.nbytes[HOST][row]
        )  # fmt: skip
        fid = index.fid[row]
        return _Job(row, fid, generation, renewed, slot, nbytes, tags, expiry, place)

    def _pack(self, job: _Job, number: int) -> _Cargo | None:
        """Seal and encode a job's frame; None for one that is gone."""
        host = self._residency.host
        try:
            pieces = host.pieces(job.slot, sectors(job.nbytes))
            header = host.parse(bytes(host.header(job.slot)))
            sealed = Sealed(seal(_restated(header, job), pieces), pieces)
            return _Cargo(job, sealed, self._compress(sealed, number))
        except FrameError:  # dropped since it was leased: the header is wiped
            return None

    def _compress(self, sealed: Sealed, number: int) -> Sealed:
        layout = self._layouts.get(sealed.header.root)
        if self._codec.number == RAW or layout is None or not self._disk.takes_writes:
            return sealed
        return compress(sealed, self._codec, layout, lambda nbytes: self._buffer(number, nbytes))

    def _reserve(self, cargo: _Cargo) -> Place | None:
        residency, host, job = self._residency, self._residency.host, cargo.job
        if not self._is_wanted(job):
            return None
        host.write_header(job.slot, encode(cargo.sealed.header, host.superblock.seed))
        if not self._disk.takes_writes:
            return None  # memory is all there is; its checksums are taken all the same
        room, nbytes = residency.room, cargo.packed.header.payload_bytes
        room.on_behalf_of = residency.index.tenant[job.row]
        place = room.take_disk(nbytes)
        if place is None and room.give_up_worse(job.row):  # there is no room for both
            place = room.take_disk(nbytes)
        if place is None:
            residency.counters.failed_writes += 1
        else:
            self._disk.lease(place)
        return place

    def _settle(self, place: Place, cargo: _Cargo, record: bytes) -> bool:
        """Enter a written frame in the books; False where it was not written, or is not wanted."""
        header, job = cargo.packed.header, cargo.job
        self._disk.release(place)
        if not record or not self._is_wanted(job):
            return False
        self._residency.settle(job.row, place, header.payload_bytes)
        self._remember(job, record)
        return True

    def _remember(self, job: _Job, record: bytes) -> None:
        """Enter what a job's header on disk says."""
        residency = self._residency
        residency.index.generation[job.row] = job.next_generation
        said = residency.marks.tags_of(job.row), residency.index.expiry[job.row]
        if said == (job.tags, job.expiry):
            residency.outdated.discard(job.row)  # nothing was said since
        self._disk.remember(job.fid, record, job.tags)

    def _is_wanted(self, job: _Job) -> bool:
        place = self._residency.index.place[DISK]
        return self._residency.is_current(job.row, job.generation) and place[job.row] == ABSENT

    def _undo(self, place: Place, *, was_written: bool) -> None:
        """Give a place back; what was dropped meanwhile must leave nothing behind."""
        if was_written:
            try:
                self._disk.wipe(place)
                self._disk.stripes[place.stripe].zero(place.slot)
            except TierError as error:
                self._disk.stripes[place.stripe].breaker.failure(str(error))
        with self._residency.lock.behind:
            self._residency.counters.failed_writes += not was_written
            self._disk.give(place)

    def _restate(self, job: _Job) -> bool:
        """Write a leased place's header anew, with what was said of the block since; whether."""
        residency, place = self._residency, job.place
        try:
            header = _restated(self._disk.read_header_of(place, job.fid, job.generation), job)
            record = self._disk.write_header(place, header)
            with residency.lock.behind:
                is_wanted = residency.is_current(job.row, job.generation)
                if is_wanted:
                    self._remember(job, record)
                is_kept = is_wanted or residency.has_on_disk(job.row, job.fid, place)
            if not is_kept:
                self._disk.wipe(place)  # dropped meanwhile: it must leave no header behind
            return is_wanted
        except TierError as error:  # it stays outdated until the medium is well again
            self._disk.stripes[place.stripe].breaker.failure(str(error))
        except FrameError as error:  # whoever reads it finds out
            _log.debug("a header that is not the one expected is not written anew: %s", error)
        return False

    def _buffer(self, number: int, nbytes: int) -> Bytes:
        """Memory of this thread's for the frame of that number."""
        buffers = self._scratch.by_number
        if number not in buffers or buffers[number].nbytes < nbytes:
            buffers[number] = aligned(sectors(nbytes))
        return buffers[number][:nbytes]


def _restated(header: Header, job: _Job) -> Header:
    renewed = header._replace(generation=job.next_generation)
    return restated(renewed, job.tags, job.expiry)
