"""VERIFY: read every stored frame and forget what does not check out.

What lies on disk is read and verified as a load would; what lies in host memory is held against the
checksums that were taken behind its save.  One frame at a time, leased meanwhile, so that a scrub
may run beside everything else.
"""

from collections.abc import Callable
from dataclasses import dataclass

from .errors import FrameError, TierError
from .files import Bytes, aligned
from .index import ABSENT, DISK, HOST
from .payload import meta_of, sectors, verify_payload
from .residency import Residency
from .tier import Place

Progress = Callable[[int, int], None]
"""Frames done, frames in all."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a scrub found: frames and payload bytes read; how many were damaged, out of reach."""

    frames: int
    nbytes: int
    damaged: int
    unreadable: int


class Scrub:
    """One pass over a store."""

    def __init__(self, residency: Residency) -> None:
        self._residency = residency
        self._buffer: Bytes = aligned(1 << 20)
        self._frames = self._nbytes = self._damaged = self._unreadable = 0

    def run(self, progress: Progress | None = None) -> Report:
        """Verify everything that is stored now."""
        residency, index = self._residency, self._residency.index
        with residency.lock.behind:
            todo = [(row, index.generation[row]) for row in index.rows().tolist()]
        for done, (row, generation) in enumerate(todo):
            self._verify_on_disk(row, generation)
            self._verify_in_host(row, generation)
            if progress is not None:
                progress(done + 1, len(todo))
        return Report(self._frames, self._nbytes, self._damaged, self._unreadable)

    def _verify_on_disk(self, row: int, generation: int) -> None:
        residency, disk = self._residency, self._residency.disk
        with residency.lock.behind:
            if not residency.is_current(row, generation) or not residency.is_on_disk(row):
                return
            place, fid = residency.disk_place(row), residency.index.fid[row]
            nbytes = residency.index.nbytes[DISK][row]
            if not disk.is_up(place.stripe):
                self._unreadable += 1
                return
            disk.lease(place)
        try:
            self._read(place, fid, generation, nbytes)
        except TierError as error:
            self._unreadable += 1
            disk.stripes[place.stripe].breaker.failure(str(error))
        except FrameError as error:
            self._damaged += 1
            residency.quarantine(row, generation, str(error))
        finally:
            with residency.lock.behind:
                residency.release_disk(row, place)

    def _read(self, place: Place, fid: bytes, generation: int, nbytes: int) -> None:
        if self._buffer.nbytes < sectors(nbytes):
            self._buffer = aligned(sectors(nbytes))
        self._residency.disk.read(place, fid, generation, [self._buffer])
        self._count(nbytes)

    def _verify_in_host(self, row: int, generation: int) -> None:
        residency, host = self._residency, self._residency.host
        with residency.lock.behind:
            slot = residency.index.place[HOST][row]
            if not residency.is_current(row, generation) or slot == ABSENT:
                return
            host.slab.lease(slot)
            raw = host.leased_header(slot)
        try:
            header = host.parse(raw)
            pieces = host.pieces(slot, header.payload_bytes)
            if header.has_checksums:
                verify_payload(header, pieces)
            meta_of(header, pieces)
            self._count(header.payload_bytes)
        except FrameError as error:
            self._damaged += 1
            residency.quarantine(row, generation, str(error))
        finally:
            with residency.lock.behind:
                residency.release(row, slot)

    def _count(self, nbytes: int) -> None:
        self._frames += 1
        self._nbytes += nbytes
