"""Blocks on their way from disk into host memory: each is read once however many ask for it.

Every method is called with the store's lock held.
"""

from .fetch import Fetch, Source
from .index import ABSENT, DISK, HOST
from .parcel import Parcel
from .residency import Residency


class Promotion:
    """The reads that are in flight."""

    def __init__(self, residency: Residency) -> None:
        self._residency = residency
        self._fetches: dict[int, Fetch] = {}

    def fetch(self, row: int) -> tuple[Fetch | None, bool]:
        """The read that brings a row into host memory, and whether it is to be started.

        None where no host memory can be made free for it.
        """
        residency, index = self._residency, self._residency.index
        generation = index.generation[row]
        fetch = self._fetches.get(row)
        if fetch is not None and fetch.source.generation == generation:
            return fetch, False
        nbytes, place = index.nbytes[DISK][row], residency.disk_place(row)
        residency.disk.lease(place)  # first: making room must not take the copy that is wanted
        residency.room.on_behalf_of = index.tenant[row]
        slots = residency.room.take_host(nbytes)
        if not slots:
            residency.release_disk(row, place)
            return None, False
        slot = slots[0]
        residency.host.slab.lease(slot)
        source = Source(index.fid[row], generation, place)
        fetch = Fetch(Parcel(row, generation, slot, nbytes), source)
        self._fetches[row] = fetch
        return fetch, True

    def land(self, fetch: Fetch) -> None:
        """A read has ended: its row is in host memory, or its slot is given back."""
        residency = self._residency
        row, generation, slot, nbytes = fetch.parcel
        residency.release_disk(row, fetch.source.place)
        if self._fetches.get(row) is fetch:
            del self._fetches[row]
        is_wanted = fetch.is_good and residency.is_current(row, generation)
        if is_wanted and residency.index.place[HOST][row] == ABSENT:
            residency.put_in_host(row, slot, nbytes, is_plain=fetch.is_plain)
        else:
            residency.host.give(slot)
        residency.host.slab.release(slot)

    def late(self, fetch: Fetch) -> None:
        """A read missed a hit's deadline; it keeps its pages until it ends."""
        residency = self._residency
        residency.counters.late_loads += 1
        residency.disk.stripes[fetch.source.place.stripe].breaker.late()
