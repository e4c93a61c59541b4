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
from collections.abc import Callable, Iterable, Sequence

from ..eviction.policy import Action, Policy, Record
from .disk import DiskTier
from .ghosts import Ghost, Ghosts, Reason
from .host import HostTier
from .index import ABSENT, DISK, HOST, NONE, Index
from .lock import StoreLock
from .marks import Marks
from .parcel import Parcel
from .slab import PAGE_BYTES
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
        self.lock = StoreLock()
        self.index = index
        self.host = host
        self.disk = disk
        self.policy = policy
        self.ghosts = ghosts
        self.counters = counters
        self.clock = clock
        self.generation = 1
        self.on_behalf_of = 0  # the tenant for whom room is being made
        self.marks = Marks()
        self.outdated: set[int] = set()  # rows of which more was said than their headers know
        self._tenants: dict[bytes, int] = {bytes(16): 0}
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
                    self._supersede(row, parcel.generation)
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
        self.counters.demoted += 1
        self.counters.demoted_bytes += nbytes
        self._put_on_disk(row, place, nbytes)

    def tenant_number(self, tenant: bytes) -> int:
        """A small number for a tenant's 16 bytes."""
        return self._tenants.setdefault(tenant, len(self._tenants))

    def extend(self, row: int, expiry: float, tags: Iterable[str]) -> bool:
        """A row is saved again: it lives at least as long and has these tags too.

        Whether what is stored of it is to be written anew.
        """
        self.counters.already_stored += 1
        current = self.index.expiry[row]
        if current and (not expiry or expiry > current):
            self.limit(row, expiry)
            self.outdated.add(row)
        return self.tag(row, tags) or row in self.outdated

    def is_resident(self, row: int) -> bool:
        """Whether the row has a place that can be read."""
        if self.index.place[HOST][row] != ABSENT:
            return True
        return self.is_on_disk(row) and self.disk.is_up(self.index.stripe[row])

    def is_lost(self, row: int) -> bool:
        """Whether a row's only copy is on a medium that is switched off."""
        return self.is_on_disk(row) and not self.is_resident(row)

    def is_on_disk(self, row: int) -> bool:
        """Whether the row has a place on disk."""
        return self.index.place[DISK][row] != ABSENT

    def header_source(self, row: int) -> bytes | Place:
        """Where a row's header can be read: its bytes in host memory, or its place on disk."""
        slot = self.index.place[HOST][row]
        return bytes(self.host.header(slot)) if slot != ABSENT else self.disk_place(row)

    def disk_place(self, row: int) -> Place:
        """Where a row is on disk."""
        return Place(self.index.stripe[row], self.index.place[DISK][row])

    def take_host(self, nbytes: int) -> int:
        """A host slot for ``nbytes``, making room as needed; -1 where none can be made."""
        slab = self.host.slab
        slot = slab.take(nbytes)
        if slot >= 0 or nbytes > slab.pages * PAGE_BYTES:
            return slot
        places = self.index.place[HOST]
        for row, _ in self.policy.victims(HOST):
            if self._is_busy(row, HOST):
                self._passed.add(row)
            elif self._waits_for_disk(row):
                self._passed.add(row)
                self._dirty[row] = None
            elif slab.is_fit(slot := places[row], nbytes):
                self.evict(row, HOST, keep_slot=True)
                return slot
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

    def evict(self, row: int, tier: int, *, keep_slot: bool = False) -> None:
        """Let a row leave one tier; its last copy takes the row along.

        ``keep_slot`` leaves its host slot with the caller, who has a use for just such a one.
        """
        index = self.index
        self.counters.evicted[tier] += 1
        self.counters.evicted_bytes[tier] += index.nbytes[tier][row]
        if keep_slot:
            self.host.wipe(index.place[HOST][row])
            index.place[HOST][row] = ABSENT
            self.policy.forget(HOST, [row])
        else:
            self._leave(row, tier)
        if index.place[HOST][row] == ABSENT and index.place[DISK][row] == ABSENT:
            self._forget(row, Reason.EVICTED)
        elif index.parent[row] in self._passed:
            self.offer(index.parent[row])  # it may have been passed over for this child

    def remove(self, row: int, reason: Reason) -> list[int]:
        """Take a row and all that hangs from it off every tier; the generations that went."""
        gone = []
        for each in reversed(self.index.subtree(row)):
            gone.append(self.index.generation[each])
            self._clear(each)
            self._forget(each, reason)
        return gone

    def quarantine(self, row: int, generation: int, reason: str) -> None:
        """Forget a damaged block, so that nobody reads it again.  Takes the lock itself."""
        _log.warning("a damaged block is forgotten: %s", reason)
        with self.lock:
            if self.is_current(row, generation):
                self.counters.quarantined += 1
                self.remove(row, Reason.QUARANTINED)

    def release(self, row: int, generation: int, slot: int) -> None:
        """End a lease on a host slot; a victim that was passed over for it is offered again."""
        if (
            self.host.slab.release(slot)
            and row in self._passed
            and self.is_current(row, generation)
        ):
            self.offer(row)

    def offer(self, row: int) -> None:
        """Let the policy offer a row again that was passed over."""
        if row in self._passed:
            self._passed.discard(row)
            self._dirty.pop(row, None)
            self.policy.touch([row])

    def pin(self, row: int, until: float) -> None:
        """Keep a row from being evicted until then."""
        self.marks.pin(row, self.index.generation[row], until)

    def unpin(self, row: int) -> None:
        """End a pin."""
        if self.marks.pins.pop(row, None) is not None:
            self.offer(row)

    def limit(self, row: int, expiry: float) -> None:
        """Let a row expire; 0 for never."""
        self.index.expiry[row] = expiry
        if expiry:
            self.marks.remind(row, self.index.generation[row], expiry)

    def expire(self) -> int:
        """Remove what has expired and end pins that ran out; how many blocks went."""
        now, count = self.clock(), 0
        for row, generation in self.marks.due(now):
            if not self.is_current(row, generation):
                continue
            if self.marks.pins.get(row, now + 1) <= now:
                self.unpin(row)
            if 0 < self.index.expiry[row] <= now:
                count += len(self.remove(row, Reason.EXPIRED))
        self.counters.expired += count
        return count

    def tag(self, row: int, tags: Iterable[str]) -> bool:
        """Add tags to a row; whether what is stored of it is to be written anew."""
        if not self.marks.tag(row, tags):
            return False
        self.outdated.add(row)
        return True

    def _is_busy(self, row: int, tier: int) -> bool:
        index = self.index
        if tier == HOST:
            leased = self.host.slab.is_leased(index.place[HOST][row])
        else:
            leased = self.disk.is_leased(self.disk_place(row))
        if leased or (row in self.marks.pins and self.marks.pins[row] > self.clock()):
            return True
        is_last = index.place[DISK if tier == HOST else HOST][row] == ABSENT
        return is_last and index.has_children(row)

    def _waits_for_disk(self, row: int) -> bool:
        index = self.index
        if index.place[DISK][row] != ABSENT or row in index.private:
            return False
        return self.disk.takes_writes

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

    def put_in_host(self, row: int, slot: int, nbytes: int, *, is_plain: bool) -> None:
        """A row is in host memory now, too."""
        self.index.place[HOST][row] = slot
        self.index.nbytes[HOST][row] = nbytes
        self.index.plain[row] = is_plain
        self.policy.add(HOST, [self.record(row, HOST)])

    def _put_on_disk(self, row: int, place: Place, nbytes: int) -> None:
        self.index.place[DISK][row] = place.slot
        self.index.stripe[row] = place.stripe
        self.index.nbytes[DISK][row] = nbytes
        self.policy.add(DISK, [self.record(row, DISK)])

    def _supersede(self, row: int, generation: int) -> None:
        """A row's copies make way for a better one; what was said of the row holds for that too."""
        self._clear(row)
        self.index.generation[row] = generation
        if row in self.marks.pins:
            self.marks.pin(row, generation, self.marks.pins[row])

    def _clear(self, row: int) -> None:
        for tier in (HOST, DISK):
            if self.index.place[tier][row] != ABSENT:
                self._leave(row, tier)

    def _leave(self, row: int, tier: int) -> None:
        index = self.index
        if tier == HOST:
            self.host.give(index.place[HOST][row])
        else:
            self.disk.give(self.disk_place(row))
            self.disk.forget(index.fid[row])
        index.place[tier][row] = ABSENT
        self.policy.forget(tier, [row])

    def _forget(self, row: int, reason: Reason) -> None:
        index = self.index
        parent = index.parent[row]
        ghost = Ghost(reason, self.clock(), index.tenant[row], self.on_behalf_of)
        self.ghosts.add(index.fid[row], ghost)
        if row in self._passed:
            self._passed.discard(row)
            self._dirty.pop(row, None)
        if self.marks.forget(row):
            self.outdated.discard(row)
        index.remove(row)
        if parent != NONE:
            self.offer(parent)
