"""Which block is on which tier: all bookkeeping of a store, under one lock.

A row of the index is PENDING while it has no place (its payload is on the way in), resident on a
tier while it has a place there.  Everything here is arithmetic on columns; bytes move outside, with
the places leased, so that nothing is used again under a reader or an I/O.  Who leaves is the other
half of it: ``room.py``.
"""

import logging
from collections.abc import Callable, Iterable, Sequence

from ..eviction.policy import Policy
from .disk import DiskTier
from .ghosts import Ghosts, Reason
from .host import HostTier
from .index import ABSENT, DISK, HOST, NONE, Index
from .lock import StoreLock
from .room import Room
from .stats import Counters
from .tier import Place

_log = logging.getLogger("kvstrata")


Landing = tuple[int, int, int]
"""A row, its generation once its payload is there, and the host slot for it."""


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
        self.room = Room(
            index=index,
            host=host,
            disk=disk,
            policy=policy,
            ghosts=ghosts,
            counters=counters,
            clock=clock,
        )
        self.marks = self.room.marks
        self.outdated = self.room.outdated
        self._tenants: dict[bytes, int] = {bytes(16): 0}

    def find(self, fid: bytes, generation: int) -> int:
        """The row of a frame id if it still is of that generation, else NONE."""
        row = self.index.find(fid)
        return row if row != NONE and self.index.generation[row] == generation else NONE

    def is_current(self, row: int, generation: int) -> bool:
        """Whether a row still is of that generation."""
        return self.index.generation[row] == generation

    def enlist(self, fids: Sequence[bytes], parent: int) -> list[int]:
        """PENDING rows for new frames: a child of ``parent``, its child, and so on."""
        first = self.generation + 1
        self.generation += len(fids)
        return self.index.insert_chain(fids, parent, first)

    def supersede(self, row: int, generation: int) -> None:
        """A row's copies make way for a better one; what was said of the row holds for that too."""
        self.room.leave(row)
        self.index.generation[row] = generation
        if row in self.marks.pins:
            self.marks.pin(row, generation, self.marks.pins[row])

    def arrive(self, parcels: Sequence[Landing]) -> list[int]:
        """The rows that are in host memory now; one that is gone gives its slot back."""
        current, places, arrived = self.index.generation, self.index.place[HOST], []
        for row, generation, slot in parcels:
            if current[row] == generation:
                places[row] = slot
                arrived.append(row)
            else:
                self.host.give(slot)
        self.policy.add(HOST, arrived)
        return arrived

    def abandon(self, parcels: Sequence[Landing]) -> None:
        """New rows whose payload did not come are gone, and their slots are free.

        A row of another generation has a worse copy, which stays.
        """
        for row, generation, slot in reversed(parcels):
            self.host.give(slot)
            if self.is_current(row, generation):
                self.remove(row, Reason.LOST)

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

    def remove(self, row: int, reason: Reason) -> list[int]:
        """Take a row and all that hangs from it off every tier; the generations that went."""
        return self.room.remove(row, reason)

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
            self.room.offer(row)

    def release_all(
        self, rows: Sequence[int], generations: Sequence[int], slots: Sequence[int]
    ) -> None:
        """End leases on host slots, as ``release`` does."""
        self.host.slab.release_all(slots)
        if self.room.has_passed:
            for row, generation in zip(rows, generations, strict=True):
                if self.is_current(row, generation):
                    self.room.offer(row)

    def pin(self, row: int, until: float) -> None:
        """Keep a row from being evicted until then."""
        self.marks.pin(row, self.index.generation[row], until)

    def unpin(self, row: int) -> None:
        """End a pin."""
        if self.marks.pins.pop(row, None) is not None:
            self.room.offer(row)

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

    def put_in_host(self, row: int, slot: int, nbytes: int, *, is_plain: bool) -> None:
        """A row is in host memory now, too."""
        self.index.place[HOST][row] = slot
        self.index.nbytes[HOST][row] = nbytes
        self.index.plain[row] = is_plain
        self.policy.add(HOST, [row])

    def _put_on_disk(self, row: int, place: Place, nbytes: int) -> None:
        self.index.place[DISK][row] = place.slot
        self.index.stripe[row] = place.stripe
        self.index.nbytes[DISK][row] = nbytes
        self.policy.add(DISK, [row])
