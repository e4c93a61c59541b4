"""Making room: who leaves a tier, and what is remembered of those who are gone.

In the order of cost:
    a clean host victim    its copy on disk stays, nothing is lost
    a dirty one            passed over while clean ones are left, then dropped and counted
    a disk victim          is gone, unless it is in host memory too
A row whose last copy leaves is forgotten; ghosts remember why.  A victim that was passed over, for
it was leased, pinned, waiting to be written, or had a child, is offered again when that ends.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, takewhile
from operator import itemgetter

import numpy as np

from ..eviction.policy import Action, MayLeave, Policy
from .disk import DiskTier
from .ghosts import Ghost, Ghosts, Reason
from .host import HostTier
from .index import ABSENT, DISK, HOST, NONE, Index
from .marks import Marks
from .slab import PAGE_BYTES, pages_for
from .stats import Counters
from .tier import Place

Gone = list[tuple[int, bytes]]
"""Tenants' numbers and frame ids of rows that were forgotten."""


class Room:
    """Takes places on the tiers, and lets blocks leave for them.

    Every method is called with the store's lock held.
    """

    def __init__(  # noqa: PLR0913 - what a block that leaves is struck off from
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
        self.on_behalf_of = 0  # the tenant for whom room is being made
        self.marks = Marks()
        self.outdated: set[int] = set()  # rows of which more was said than their headers know
        self._index = index
        self._host = host
        self._disk = disk
        self._policy = policy
        self._ghosts = ghosts
        self._counters = counters
        self._clock = clock
        self._passed: set[int] = set()  # victims passed over, to be offered again on a touch
        self._dirty = OrderedDict[int, None]()  # those of them that only wait to be written

    @property
    def has_passed(self) -> bool:
        """Whether there are victims that were passed over."""
        return bool(self._passed)

    def take_host(self, sizes: Sequence[int]) -> list[int]:
        """Host slots for frames of so many payload bytes, making room as needed.

        For the leading ones where it cannot be made for all.
        """
        whole = self._host.slab.pages * PAGE_BYTES
        if max(sizes) > whole:
            sizes = list(takewhile(lambda nbytes: nbytes <= whole, sizes))
        slots = self._take_free(sizes)
        if len(slots) < len(sizes):
            self._evict_host(sizes, slots)
        return slots

    def take_disk(self, nbytes: int) -> Place | None:
        """A place on disk, making room as needed; None where none can be made."""
        disk, index = self._disk, self._index
        place = disk.take(nbytes)
        if place is not None or not disk.has_room(nbytes):
            return place
        gone: Gone = []
        evicted = []
        for row, _ in self._policy.victims(DISK, self._may_leave_disk):
            evicted.append(index.nbytes[DISK][row])
            disk.give(self._place_on_disk(row))
            disk.forget(index.fid[row])
            index.place[DISK][row] = ABSENT
            self._left(row, gone)
            place = disk.take(nbytes)
            if place is not None:
                break
        self._count(DISK, len(evicted), sum(evicted))
        self._bury(gone, Reason.EVICTED)
        return place

    def leave(self, row: int) -> None:
        """Take a row off every tier."""
        index = self._index
        if index.place[HOST][row] != ABSENT:
            self._host.give(index.place[HOST][row])
            index.place[HOST][row] = ABSENT
            self._policy.forget(HOST, [row])
        if index.place[DISK][row] != ABSENT:
            self._disk.give(self._place_on_disk(row))
            self._disk.forget(index.fid[row])
            index.place[DISK][row] = ABSENT
            self._policy.forget(DISK, [row])

    def remove(self, row: int, reason: Reason) -> list[int]:
        """Take a row and all that hangs from it off every tier; the generations that went."""
        generations, gone = [], Gone()
        for each in reversed(self._index.subtree(row)):
            generations.append(self._index.generation[each])
            self.leave(each)
            self._forget(each, gone)
        self._bury(gone, reason)
        return generations

    def offer(self, row: int) -> None:
        """Let the policy offer a row again that was passed over."""
        if row in self._passed:
            self._passed.discard(row)
            self._dirty.pop(row, None)
            self._policy.touch([row])

    def _take_free(self, sizes: Sequence[int]) -> list[int]:
        slots = []
        for nbytes in sizes:
            slot = self._host.slab.take(nbytes)
            if slot < 0:
                break
            slots.append(slot)
        return slots

    def _evict_host(self, sizes: Sequence[int], slots: list[int]) -> None:
        """Let blocks leave host memory until there are as many slots as sizes.

        A victim whose place is just what is needed hands it over as it is.
        """
        index, slab = self._index, self._host.slab
        places, nbytes = index.place[HOST], index.nbytes[HOST]
        gone: Gone = []
        kept = []
        count = freed = 0
        pages = pages_for(sizes[len(slots)])
        for row in self._leaving_host():
            slot = places[row]
            places[row] = ABSENT
            count += 1
            freed += nbytes[row]
            self._left(row, gone)
            if slab.is_fit(slot, pages):
                kept.append(slot)
                slots.append(slot)
            else:
                self._host.give(slot)
                slots += self._take_free(sizes[len(slots) :])
            if len(slots) == len(sizes):
                break
            pages = pages_for(sizes[len(slots)])
        if kept:
            self._host.wipe_all(np.array(kept))
        self._count(HOST, count, freed)
        self._bury(gone, Reason.EVICTED)

    def _leaving_host(self) -> Iterator[int]:
        """Rows that leave host memory, clean ones first; the policy has forgotten them."""
        for row, _ in self._policy.victims(HOST, self._may_leave_host()):
            yield row
        while self._dirty:
            row, _ = self._dirty.popitem(last=False)
            slot = self._index.place[HOST][row]
            if not self._host.slab.is_leased(slot) and not self._is_held(row, DISK):
                self._counters.dropped_dirty += self._index.place[DISK][row] == ABSENT
                self._passed.discard(row)
                self._policy.forget(HOST, [row])
                yield row

    def _may_leave_host(self) -> MayLeave:
        """What the policy asks; made anew for each making of room, for it is asked often."""
        index, pins, passed, dirty = self._index, self.marks.pins, self._passed, self._dirty
        places, on_disk, child = index.place[HOST], index.place[DISK], index.child
        leases, private = self._host.slab.leases, index.private
        now, is_written_behind = self._clock(), self._disk.takes_writes

        def may_leave(row: int, _: Action) -> bool:
            is_last = on_disk[row] == ABSENT
            if (
                leases[places[row]]
                or (is_last and child[row] != NONE)
                or (row in pins and pins[row] > now)
            ):
                passed.add(row)
                return False
            if is_last and is_written_behind and row not in private:
                passed.add(row)
                dirty[row] = None
                return False
            return True

        return may_leave

    def _may_leave_disk(self, row: int, action: Action) -> bool:
        is_leased = self._disk.is_leased(self._place_on_disk(row))
        if action is Action.DROP and not is_leased and not self._is_held(row, HOST):
            return True
        self._passed.add(row)
        return False

    def _is_held(self, row: int, other: int) -> bool:
        """Whether a row is pinned, or has children and no copy on the other tier."""
        if self.marks.pins.get(row, 0.0) > self._clock():
            return True
        return self._index.place[other][row] == ABSENT and self._index.has_children(row)

    def _place_on_disk(self, row: int) -> Place:
        return Place(self._index.stripe[row], self._index.place[DISK][row])

    def _left(self, row: int, gone: Gone) -> None:
        """A row has left a tier; if that was the last one, it is forgotten."""
        index = self._index
        if index.place[HOST][row] == ABSENT and index.place[DISK][row] == ABSENT:
            self._forget(row, gone)
        elif index.parent[row] in self._passed:
            self.offer(index.parent[row])  # it may have been passed over for this child

    def _forget(self, row: int, gone: Gone) -> None:
        index = self._index
        parent = index.parent[row]
        gone.append((index.tenant[row], index.fid[row]))
        if row in self._passed:
            self._passed.discard(row)
            self._dirty.pop(row, None)
        self.marks.forget(row)
        self.outdated.discard(row)
        index.remove(row)
        if parent in self._passed:
            self.offer(parent)

    def _count(self, tier: int, blocks: int, nbytes: int) -> None:
        self._counters.evicted[tier] += blocks
        self._counters.evicted_bytes[tier] += nbytes

    def _bury(self, gone: Gone, reason: Reason) -> None:
        """Remember why rows were forgotten."""
        now = self._clock()
        for tenant, group in groupby(gone, itemgetter(0)):
            ghost = Ghost(reason, now, tenant, self.on_behalf_of)
            self._ghosts.add([fid for _, fid in group], ghost)
