"""Which block is on which tier, and who leaves: all bookkeeping of a store, under one lock.

A row of the index is PENDING while it has no place (its payload is on the way in), resident on a
tier while it has a place there.  Everything here is arithmetic on columns; bytes move outside, with
the places leased, so that nothing is used again under a reader or an I/O.

Leaving, in the order of cost:
    a clean host victim    its copy on disk stays, nothing is lost
    a dirty one            passed over while clean ones are left, then dropped and counted
    a disk victim          is gone, unless it is in host memory too
A row whose last copy leaves is forgotten, and with it what hangs from it; ghosts remember why.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from heapq import heappop, heappush

import numpy as np

from ..eviction.policy import Action, Policy, Record
from .disk import DiskTier
from .fetch import Fetch, Source
from .frame import Header
from .ghosts import Ghosts, Reason
from .host import HostTier
from .index import ABSENT, DISK, HOST, NONE, Index
from .parcel import Parcel
from .slab import PAGE_BYTES, Slab
from .stats import Counters
from .tier import Place

_log = logging.getLogger("kvstrata")


class Residency:
    """The index, the slabs' bookkeeping and the policy, kept consistent.

    Every method but ``quarantine`` is called with ``lock`` held.
    """

    def __init__(  # noqa: PLR0913 - the parts that it keeps consistent
        self,
        *,
        index: Index,
        host: HostTier,
        disk: DiskTier,
        policy: Policy,
        ghosts: Ghosts,
        counters: Counters,
        clock: Callable[[], float],
    ) -> None:
        self.lock = threading.Lock()
        self.index = index
        self.host = host
        self.disk = disk
        self.policy = policy
        self.ghosts = ghosts
        self.counters = counters
        self.clock = clock
        self.generation = 1
        self.pins: dict[int, float] = {}  # row -> until when
        self.tags: dict[str, set[int]] = {}
        self._tenants: dict[bytes, int] = {bytes(16): 0}
        self._row_tags: dict[int, tuple[str, ...]] = {}
        self.fetches: dict[int, Fetch] = {}
        self._due: list[tuple[float, int, int]] = []  # when, row, generation: expiries and pins
        self._passed: set[int] = set()  # victims passed over, to be offered again on a touch
        self._dirty: dict[int, None] = {}  # those of them that only wait to be written

    def find(self, fid: bytes, generation: int) -> int:
        """The row of a frame id if it still is of that generation, else NONE."""
        row = self.index.find(fid)
        return row if row != NONE and self.index.generation[row] == generation else NONE

    def is_current(self, row: int, generation: int) -> bool:
        """Whether a row still is of that generation."""
        return self.index.generation[row] == generation and self.index.fid[row] != b""

    def admit(self, fid: bytes, parent: int, nbytes: int) -> Parcel | None:
        """A PENDING row and a leased host slot for a new frame; None where no room can be made."""
        row = self.index.insert(fid, parent)  # first: a parent with a child is no victim
        slot = self.take_host(nbytes)
        if slot < 0:
            self.index.remove(row)
            return None
        self.host.slab.lease(slot)
        self.generation += 1
        self.index.generation[row] = self.generation
        self.index.nbytes[HOST][row] = nbytes
        return Parcel(row, self.generation, slot, nbytes)

    def admit_better(self, row: int, nbytes: int) -> Parcel | None:
        """A leased host slot for a copy that is to replace a row's, which serves until then."""
        slot = self.take_host(nbytes)
        if slot < 0 or not self.index.fid[row]:
            if slot >= 0:
                self.host.give(slot)
            return None
        self.host.slab.lease(slot)
        self.generation += 1
        return Parcel(row, self.generation, slot, nbytes, replaces=self.index.generation[row])

    def arrive(self, parcels: Sequence[Parcel]) -> list[int]:
        """Rows that are in host memory now; a parcel whose row is gone gives its slot back."""
        index, rows = self.index, []
        for parcel in parcels:
            row = parcel.row
            expected = parcel.replaces or parcel.generation
            if not self.is_current(row, expected):
                self.host.give(parcel.slot)
            else:
                if parcel.replaces:
                    self._clear(row)
                    index.generation[row] = parcel.generation
                index.nbytes[HOST][row] = parcel.nbytes
                index.place[HOST][row] = parcel.slot
                rows.append(row)
            self.host.slab.release(parcel.slot)
        self.policy.add(HOST, [self.record(row, HOST) for row in rows])
        return rows

    def abandon(self, parcels: Sequence[Parcel]) -> None:
        """Parcels whose payload did not come: their slots are free, their new rows are gone."""
        for parcel in reversed(parcels):
            self.host.give(parcel.slot)
            self.host.slab.release(parcel.slot)
            if not parcel.replaces and self.is_current(parcel.row, parcel.generation):
                self.remove(parcel.row, Reason.LOST)

    def fetch(self, row: int) -> tuple[Fetch | None, bool]:
        """The read that brings a row into host memory, and whether it is to be started.

        None where no host memory can be made free for it.
        """
        fetch = self.fetches.get(row)
        if fetch is not None:
            return fetch, False
        nbytes, place = self.index.nbytes[DISK][row], self.disk_place(row)
        self.disk.lease(place)
        slot = self.take_host(nbytes)
        if slot < 0:
            self.disk.release(place)
            return None, False
        self.host.slab.lease(slot)
        generation = self.index.generation[row]
        source = Source(self.index.fid[row], generation, place)
        fetch = Fetch(Parcel(row, generation, slot, nbytes), source)
        self.fetches[row] = fetch
        return fetch, True

    def land(self, fetch: Fetch) -> None:
        """A read has ended: its row is in host memory, or its slot is given back."""
        row, generation, slot, nbytes, _ = fetch.parcel
        host = self.index.place[HOST]
        self.disk.release(fetch.source.place)
        if self.fetches.get(row) is fetch:
            del self.fetches[row]
        if fetch.is_good and self.is_current(row, generation) and host[row] == ABSENT:
            host[row] = slot
            self.index.nbytes[HOST][row] = nbytes
            self.index.plain[row] = fetch.is_plain
            self.policy.add(HOST, [self.record(row, HOST)])
        else:
            self.host.give(slot)
        self.host.slab.release(slot)

    def record(self, row: int, tier: int) -> Record:
        """What the policy may weigh of a row that comes to a tier."""
        index = self.index
        return Record(
            row,
            index.fid[row],
            index.parent[row],
            index.nbytes[tier][row],
            index.tokens[row],
            index.fid[row][32],
            index.tenant[row],
            index.fidelity[row],
            index.expiry[row],
        )

    def settle(self, row: int, place: Place, nbytes: int) -> None:
        """A row is on disk now."""
        self.index.place[DISK][row] = place.slot
        self.index.stripe[row] = place.stripe
        self.index.nbytes[DISK][row] = nbytes
        self.policy.add(DISK, [self.record(row, DISK)])

    def restore(self, header: Header, place: Place, parent: int, tags: Iterable[str]) -> None:
        """A row for a frame that an earlier life left on disk."""
        row = self.index.insert(header.frame_id, parent)
        index = self.index
        index.tokens[row] = header.tokens
        index.generation[row] = header.generation
        index.tenant[row] = self.tenant_number(header.tenant)
        index.fidelity[row] = header.fidelity
        self.limit(row, header.expiry)
        if tags:
            self.tag(row, tags)
        self.settle(row, place, header.payload_bytes)

    def tenant_number(self, tenant: bytes) -> int:
        """A small number for a tenant's 16 bytes."""
        return self._tenants.setdefault(tenant, len(self._tenants))

    def extend(self, row: int, expiry: float, tags: Iterable[str]) -> None:
        """A row that is saved again: it lives at least as long, and has these tags too."""
        self.counters.already_stored += 1
        current = self.index.expiry[row]
        if current and (not expiry or expiry > current):
            self.limit(row, expiry)
        if tags:
            self.tag(row, tags)

    def is_resident(self, row: int) -> bool:
        """Whether the row has a place that can be read."""
        if self.index.place[HOST][row] != ABSENT:
            return True
        return self.is_on_disk(row) and self.disk.is_up(self.index.stripe[row])

    def is_on_disk(self, row: int) -> bool:
        """Whether the row has a place on disk."""
        return self.index.place[DISK][row] != ABSENT

    def disk_place(self, row: int) -> Place:
        """Where a row is on disk."""
        return Place(self.index.stripe[row], self.index.place[DISK][row])

    def take_host(self, nbytes: int) -> int:
        """A host slot for ``nbytes``, making room as needed; -1 where none can be made."""
        slab = self.host.slab
        slot = slab.take(nbytes)
        if slot >= 0 or nbytes > slab.pages * PAGE_BYTES:
            return slot
        for row, _ in self.policy.victims(HOST):
            if self._is_busy(row, HOST):
                self._passed.add(row)
            elif self._waits_for_disk(row):
                self._passed.add(row)
                self._dirty[row] = None
            else:
                self.evict(row, HOST)
                if (slot := slab.take(nbytes)) >= 0:
                    return slot
        return self._drop_dirty(nbytes)

    def take_disk(self, nbytes: int) -> Place | None:
        """A place on disk, making room as needed; None where none can be made."""
        disk = self.disk
        place = disk.take(nbytes)
        if place is not None or not disk.has_room(nbytes):
            return place
        for row, action in self.policy.victims(DISK):
            if action is not Action.DROP or self._is_busy(row, DISK):
                self._passed.add(row)
                continue
            self.evict(row, DISK)
            place = disk.take(nbytes)
            if place is not None:
                return place
        return None

    def evict(self, row: int, tier: int) -> None:
        """Let a row leave one tier; its last copy takes the row along."""
        index = self.index
        nbytes = index.nbytes[tier][row]
        self._leave(row, tier)
        self.counters.evicted[tier] += 1
        self.counters.evicted_bytes[tier] += nbytes
        if index.place[HOST][row] == ABSENT and index.place[DISK][row] == ABSENT:
            self._forget(row, Reason.EVICTED)

    def remove(self, row: int, reason: Reason) -> list[int]:
        """Take a row and all that hangs from it off every tier; the generations that went."""
        gone = []
        for each in reversed(self.index.subtree(row)):
            gone.append(self.index.generation[each])
            self._clear(each)
            self._forget(each, reason)
        return gone

    def late(self, fetch: Fetch) -> None:
        """A read missed a hit's deadline; it keeps its pages until it ends."""
        self.counters.late_loads += 1
        self.disk.stripes[fetch.source.place.stripe].breaker.late()

    def quarantine(self, row: int, generation: int, reason: str) -> None:
        """Forget a damaged block, so that nobody reads it again.  Takes the lock itself."""
        _log.warning("a damaged block is forgotten: %s", reason)
        with self.lock:
            if self.is_current(row, generation):
                self.counters.quarantined += 1
                self.remove(row, Reason.QUARANTINED)

    def release(self, row: int, generation: int, slot: int) -> None:
        """End a lease on a host slot; a victim that was passed over for it is offered again."""
        if self.host.slab.release(slot) and self.is_current(row, generation):
            self.offer(row)

    def offer(self, row: int) -> None:
        """Let the policy offer a row again that was passed over."""
        if row in self._passed:
            self._passed.discard(row)
            self._dirty.pop(row, None)
            self.policy.touch([row])

    def pin(self, row: int, until: float) -> None:
        """Keep a row from being evicted until then."""
        self.pins[row] = max(until, self.pins.get(row, 0.0))
        heappush(self._due, (until, row, self.index.generation[row]))

    def unpin(self, row: int) -> None:
        """End a pin."""
        if self.pins.pop(row, None) is not None:
            self.offer(row)

    def limit(self, row: int, expiry: float) -> None:
        """Let a row expire."""
        self.index.expiry[row] = expiry
        if expiry:
            heappush(self._due, (expiry, row, self.index.generation[row]))

    def expire(self) -> int:
        """Remove what has expired and end pins that ran out; how many blocks went."""
        now, count = self.clock(), 0
        while self._due and self._due[0][0] <= now:
            _, row, generation = heappop(self._due)
            if not self.is_current(row, generation):
                continue
            if self.pins.get(row, now + 1) <= now:
                self.unpin(row)
            if 0 < self.index.expiry[row] <= now:
                count += len(self.remove(row, Reason.EXPIRED))
        self.counters.expired += count
        return count

    def tag(self, row: int, tags: Iterable[str]) -> None:
        """Add tags to a row."""
        self._row_tags[row] = tuple(sorted({*self._row_tags.get(row, ()), *tags}))
        for tag in self._row_tags[row]:
            self.tags.setdefault(tag, set()).add(row)

    def tags_of(self, row: int) -> tuple[str, ...]:
        """The tags of a row."""
        return self._row_tags.get(row, ())

    def dirty(self) -> list[int]:
        """Rows that are in host memory alone and may go to disk, oldest first."""
        index = self.index
        if not self.disk.stripes:
            return []
        rows = index.rows()
        host, disk = (np.asarray(place)[rows] for place in index.place)
        rows = rows[(host != ABSENT) & (disk == ABSENT)]
        by_age = rows[np.argsort(np.asarray(index.generation)[rows])]
        return [row for row in by_age.tolist() if row not in index.private]

    def usage(self, tier: int, slabs: Sequence[Slab]) -> tuple[int, int, int, int, int]:
        """Of a tier: capacity, used and payload in bytes, blocks, leased places."""
        rows = self.index.rows()
        here = rows[np.asarray(self.index.place[tier])[rows] != ABSENT]
        return (
            sum(slab.pages for slab in slabs) * PAGE_BYTES,
            sum(slab.pages * PAGE_BYTES - slab.free_bytes for slab in slabs),
            int(np.asarray(self.index.nbytes[tier])[here].sum()),
            len(here),
            sum(slab.leased for slab in slabs),
        )

    def audit(self) -> None:
        """Raise AssertionError unless places, rows and parents agree."""
        index = self.index
        self.host.slab.audit()
        hosted = [index.place[HOST][row] for row in index.rows().tolist()]
        assert len(set(hosted) - {ABSENT}) == sum(slot != ABSENT for slot in hosted)
        for row in index.rows().tolist():
            parent = index.parent[row]
            assert parent == NONE or index.fid[parent], "a resident child without its parent"
        self.disk.audit()

    def _is_busy(self, row: int, tier: int) -> bool:
        index = self.index
        if tier == HOST:
            leased = self.host.slab.is_leased(index.place[HOST][row])
        else:
            leased = self.disk.is_leased(self.disk_place(row))
        is_last = index.place[DISK if tier == HOST else HOST][row] == ABSENT
        return (
            leased
            or self.pins.get(row, 0.0) > self.clock()
            or (is_last and next(index.children(row), NONE) != NONE)
        )

    def _waits_for_disk(self, row: int) -> bool:
        index = self.index
        on_disk = index.place[DISK][row] != ABSENT
        return self.disk.takes_writes and not on_disk and row not in index.private

    def _drop_dirty(self, nbytes: int) -> int:
        while self._dirty:
            row = next(iter(self._dirty))
            del self._dirty[row]
            if self._is_busy(row, HOST):
                continue
            if self.index.place[DISK][row] == ABSENT:
                self.counters.dropped_dirty += 1
            self._passed.discard(row)
            self.evict(row, HOST)
            if (slot := self.host.slab.take(nbytes)) >= 0:
                return slot
        return -1

    def _clear(self, row: int) -> None:
        for tier in (HOST, DISK):
            if self.index.place[tier][row] != ABSENT:
                self._leave(row, tier)

    def _leave(self, row: int, tier: int) -> None:
        index = self.index
        if tier == HOST:
            self.host.give(index.place[HOST][row])
        else:
            self.disk.give(self.disk_place(row), index.fid[row])
        index.place[tier][row] = ABSENT
        self.policy.forget(tier, [row])

    def _forget(self, row: int, reason: Reason) -> None:
        index = self.index
        parent = index.parent[row]
        self.fetches.pop(row, None)
        self.ghosts.add(index.fid[row], reason, self.clock(), index.tenant[row])
        self.pins.pop(row, None)
        self._passed.discard(row)
        self._dirty.pop(row, None)
        for tag in self._row_tags.pop(row, ()):
            self.tags[tag].discard(row)
            if not self.tags[tag]:
                del self.tags[tag]
        index.remove(row)
        if parent != NONE:
            self.offer(parent)
