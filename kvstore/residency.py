"""Which block is on which tier: all bookkeeping of a store, under one lock.

A row of the index is PENDING while it has no place (its payload is on the way in), resident on a
tier while it has a place there.  Everything here is arithmetic on columns; bytes move outside, with
the places leased, so that nothing is used again under a reader or an I/O.  Who leaves is the other
half of it: ``room.py``.
"""

import logging
from collections.abc import Iterable, Sequence
from math import inf

import numpy as np

from .errors import FrameError, TierError
from .frame import Header
from .ghosts import Reason
from .index import ABSENT, DISK, HOST
from .lock import StoreLock
from .room import Room
from .tier import Place

_log = logging.getLogger("kvstrata")

_AT_ONCE = 64  # blocks that expire while an engine waits for the lock

Landing = tuple[int, int, int]
"""A row, its generation once its payload is there, and the host slot for it."""


class Residency:
    """The index, the slabs' bookkeeping and the policy, kept consistent.

    Every method is called with ``lock`` held but those that say that they take it or want it free.
    """

    def __init__(self, room: Room) -> None:
        self.lock = StoreLock()
        self.room = room
        self.index = room.index
        self.host = room.host
        self.disk = room.disk
        self.policy = room.policy
        self.ghosts = room.ghosts
        self.counters = room.counters
        self.clock = room.clock
        self.marks = room.marks
        self.outdated = room.outdated
        self.generation = 1
        self.buried_up_to = 0  # the last generation that a tombstone may cover
        self.is_dropping = False  # whether blocks up to there are still being taken away
        self._tenants: dict[bytes, int] = {bytes(16): 0}
        self._next_end = 0.0  # no pin and no life ends before

    def is_current(self, row: int, generation: int) -> bool:
        """Whether a row still is of that generation."""
        return self.index.generation[row] == generation

    def enlist(self, fids: Sequence[bytes], parent: int) -> list[int]:
        """PENDING rows for new frames: a child of ``parent``, its child, and so on."""
        first = self.generation + 1
        self.generation += len(fids)
        return self.index.insert_chain(fids, parent, first)

    def generation_to_write(self, row: int) -> int:
        """The generation for a row's header that is to say more than before.

        A new one where a tombstone may cover the row's: what is said may be a tag that was dropped.
        0 while a drop goes on: what it is about to take away must not outlive its tombstone.
        """
        generation = self.index.generation[row]
        if generation > self.buried_up_to:
            return generation
        if self.is_dropping:
            return 0
        self.generation += 1
        return self.generation

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

        A row of another generation stays: it has a worse copy, or is another frame's by now.
        """
        for row, generation, slot in reversed(parcels):
            self.host.give(slot)
            if self.is_current(row, generation):
                self.remove(row, Reason.LOST)

    def settle(self, row: int, place: Place, nbytes: int) -> None:
        """A row is on disk now."""
        self.counters.demoted += 1
        self.counters.demoted_bytes += nbytes
        self.room.give_up_worse(row)
        self.index.place[DISK][row] = place.slot
        self.index.stripe[row] = place.stripe
        self.index.nbytes[DISK][row] = nbytes
        self.policy.add(DISK, [row])

    def tenant_number(self, tenant: bytes) -> int:
        """A small number for a tenant's 16 bytes."""
        return self._tenants.setdefault(tenant, len(self._tenants))

    def extend(self, row: int, expiry: float, tags: Iterable[str]) -> bool:
        """A row is saved again: it lives at least as long and has these tags too.

        Whether what is stored of it is to be written anew.
        """
        self.counters.already_stored += 1
        self.lengthen(row, expiry)
        return self.tag(row, tags) or row in self.outdated

    def lengthen(self, row: int, expiry: float) -> None:
        """Let a row live until then, 0 for ever, if that is longer."""
        current = self.index.expiry[row]
        if current and (not expiry or expiry > current):
            self.limit(row, expiry)
            self._outdate(row)

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

    def header_source(self, row: int) -> bytes | Place | None:
        """Where a row's header can be read: its bytes in host memory, or its place on disk.

        None while it is PENDING.
        """
        slot = self.index.place[HOST][row]
        if slot != ABSENT:
            return bytes(self.host.header(slot))
        return self.disk_place(row) if self.is_on_disk(row) else None

    def read_header(self, source: bytes | Place) -> Header | None:
        """The header from there, None where it cannot be read.  Wants the lock free."""
        try:
            if isinstance(source, bytes):
                return self.host.parse(source)
            return self.disk.read_header(source)
        except (FrameError, TierError):
            return None

    def leased_header(self, slot: int) -> Header:
        """The header of a host place that is leased.  Takes the lock itself; raises FrameError."""
        with self.lock:  # the mover writes headers anew
            raw = self.host.leased_header(slot)
        return self.host.parse(raw)

    def disk_place(self, row: int) -> Place:
        """Where a row is on disk."""
        return Place(self.index.stripe[row], self.index.place[DISK][row])

    def disk_copies(self, row: int) -> list[tuple[Place, int]]:
        """Where a row has been written and not been given up, and payload bytes there."""
        if self.is_on_disk(row):
            return [(self.disk_place(row), self.index.nbytes[DISK][row])]
        worse = self.room.worse.get(row)
        return [] if worse is None else [(worse.place, worse.nbytes)]

    def has_on_disk(self, row: int, fid: bytes, place: Place) -> bool:
        """Whether a frame has this place on disk, also as a worse copy that is still kept."""
        is_there = any(place == each for each, _ in self.disk_copies(row))
        return is_there and self.index.fid[row] == fid

    def remove(self, row: int, reason: Reason) -> list[int]:
        """Take a row and all that hangs from it off every tier; the generations that went."""
        return self.room.remove(row, reason)

    def quarantine(self, row: int, generation: int, reason: str) -> None:
        """Forget a damaged block, so that nobody reads it again.  Takes the lock itself."""
        with self.lock:
            is_there = self.is_current(row, generation)
            if is_there:
                self.counters.quarantined += 1
                self.remove(row, Reason.QUARANTINED)
        if is_there:
            _log.warning("a damaged block is forgotten: %s", reason)

    def release(self, row: int, slot: int) -> None:
        """End a lease on a host slot; a victim that was passed over for it is offered again."""
        if self.host.slab.release(slot):
            self.room.offer(row)

    def release_disk(self, row: int, place: Place) -> None:
        """End a lease on a place on disk; a victim that was passed over for it is offered again."""
        self.disk.release(place)
        self.room.offer(row)

    def release_all(self, rows: Sequence[int], slots: Sequence[int]) -> None:
        """End leases on host slots, as ``release`` does."""
        self.host.slab.release_all(slots)
        if self.room.has_passed:
            for row in rows:
                self.room.offer(row)

    def pin(self, row: int, until: float) -> None:
        """Keep a row from being evicted until then."""
        self.marks.pin(row, until)
        self._next_end = min(self._next_end, until)

    def unpin(self, row: int) -> None:
        """End a pin."""
        if self.marks.pins.pop(row, None) is not None:
            self.room.offer(row)

    def limit(self, row: int, expiry: float) -> None:
        """Let a row expire; 0 for never."""
        self.index.expiry[row] = expiry
        if expiry:
            self._next_end = min(self._next_end, expiry)

    def expire(self) -> int:
        """Remove what has expired and end pins that ran out; how many blocks went.

        Takes the lock itself, again and again, so that nobody waits for a million blocks to go.
        """
        now, count = self.clock(), 0
        with self.lock.behind:
            due = self._due(now)
        for start in range(0, len(due), _AT_ONCE):
            with self.lock.behind:
                for row, fid in due[start : start + _AT_ONCE]:
                    count += self._end(row, now) if self.index.fid[row] == fid else 0
        return count

    def tag(self, row: int, tags: Iterable[str]) -> bool:
        """Add tags to a row; whether what is stored of it is to be written anew."""
        if not self.marks.tag(row, tags):
            return False
        self._outdate(row)
        return True

    def put_in_host(self, row: int, slot: int, nbytes: int, *, is_plain: bool) -> None:
        """A row is in host memory now, too."""
        self.index.place[HOST][row] = slot
        self.index.nbytes[HOST][row] = nbytes
        self.index.plain[row] = is_plain
        self.policy.add(HOST, [row])

    def _outdate(self, row: int) -> None:
        """More was said of a row than its header knows."""
        if row not in self.index.private:
            self.outdated.add(row)

    def _due(self, now: float) -> list[tuple[int, bytes]]:
        """Rows whose pin or life has ended, with their frame ids, the youngest first.

        So tails go before heads.
        """
        if now < self._next_end:
            return []
        index, pins = self.index, self.marks.pins
        ends, generations = index.columns.expiry[: index.used], index.columns.generation
        is_over = (ends > 0) & (ends <= now) & (generations[: index.used] > 0)
        is_over[[row for row, until in pins.items() if until <= now]] = True
        next_end = float(ends.min(where=ends > now, initial=inf))
        self._next_end = min([next_end, *(until for until in pins.values() if until > now)])
        rows = np.flatnonzero(is_over)
        rows = rows[np.argsort(generations[rows])[::-1]]
        return list(zip(rows.tolist(), index.fid[rows].tolist(), strict=True))

    def _end(self, row: int, now: float) -> int:
        """End a row's pin, and its life with all that hangs from it, if their time has come."""
        if self.marks.pins.get(row, inf) <= now:
            self.unpin(row)
        if not 0 < self.index.expiry[row] <= now:
            return 0
        gone = len(self.remove(row, Reason.EXPIRED))
        self.counters.expired += gone
        return gone
