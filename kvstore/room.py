"""Making room: who leaves a tier, and what is remembered of those who are gone.

In the order of cost:
    a clean host victim    its copy on disk stays, nothing is lost
    a dirty one            passed over while clean ones are left, then dropped and counted
    a disk victim          is gone, unless it is in host memory too; none that has a child
A row whose last copy leaves is forgotten; ghosts remember why.  A better copy that leaves before it
was written gives way to the worse one that is still on disk.  A victim that was passed over, for it
was leased, pinned, had a child or lies on a medium that is switched off, is offered again when that
ends; one that only waited to be written is a clean victim after its next use.
"""

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Sequence, Set
from typing import NamedTuple

from ..eviction.policy import Action, MayLeave, Policy
from .disk import DiskTier
from .ghosts import Ghost, Ghosts, Reason
from .host import HostTier
from .index import ABSENT, DISK, HOST, NONE, Index
from .marks import Marks
from .slab import PAGE_BYTES, pages_for
from .stats import Counters
from .tier import Place

Gone = defaultdict[int, list[bytes]]
"""By tenant's number, frame ids of rows that were forgotten."""


class Worse(NamedTuple):
    """A copy on disk that a better one in host memory is to replace."""

    place: Place
    nbytes: int
    generation: int
    fidelity: int


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
        self.worse: dict[int, Worse] = {}  # kept until the row's better copy is on disk
        self.index = index
        self.host = host
        self.disk = disk
        self.policy = policy
        self.ghosts = ghosts
        self.counters = counters
        self.clock = clock
        self._passed: set[int] = set()  # victims passed over, to be offered again on a touch
        self._dirty = OrderedDict[int, None]()  # those of them that only wait to be written
        self._writes_behind = False  # whether a dirty victim waits to be written
        self._may_leave_host = self._host_gate()

    @property
    def has_passed(self) -> bool:
        """Whether there are victims that were passed over."""
        return bool(self._passed)

    @property
    def unwritten(self) -> Set[int]:
        """Rows in host memory that were passed over because they only wait to be written."""
        return self._dirty.keys()

    def take_host(self, nbytes: int, count: int = 1) -> list[int]:
        """Host slots for so many frames of ``nbytes`` each, making room as needed.

        Fewer where it cannot be made for all.
        """
        slab = self.host.slab
        slots = slab.take_some(nbytes, count)
        if len(slots) < count and nbytes <= slab.pages * PAGE_BYTES:
            self._evict_host(nbytes, count, slots)
        return slots

    def take_disk(self, nbytes: int) -> Place | None:
        """A place on disk, making room as needed; None where none can be made."""
        disk, index = self.disk, self.index
        place = disk.take(nbytes)
        if place is not None or not disk.has_room(nbytes):
            return place
        gone = Gone(list)
        evicted = []
        for row, _ in self.policy.victims(DISK, self._may_leave_disk):
            evicted.append(index.nbytes[DISK][row])
            disk.give(self._place_on_disk(row))
            disk.forget(index.fid[row])
            index.place[DISK][row] = ABSENT
            if index.place[HOST][row] == ABSENT:
                self._forget(row, gone)
            place = disk.take(nbytes)
            if place is not None:
                break
        self._count(DISK, len(evicted), sum(evicted))
        self._bury(gone, Reason.EVICTED)
        return place

    def supersede(self, row: int, generation: int) -> None:
        """A row's copies make way for a better one; on disk they stay until that is there."""
        index = self.index
        self._leave_host(row)
        if index.place[DISK][row] != ABSENT:
            place, nbytes = self._place_on_disk(row), index.nbytes[DISK][row]
            self.worse[row] = Worse(place, nbytes, index.generation[row], index.fidelity[row])
            index.place[DISK][row] = ABSENT
            self.policy.forget(DISK, [row])
        index.generation[row] = generation

    def give_up_worse(self, row: int) -> bool:
        """Let a superseded copy go, if there is one."""
        worse = self.worse.pop(row, None)
        if worse is not None:
            self.disk.give(worse.place)
            self.disk.forget(self.index.fid[row])
        return worse is not None

    def remove(self, row: int, reason: Reason) -> list[int]:
        """Take a row and all that hangs from it off every tier; the generations that went."""
        generations, gone = [], Gone(list)
        for each in reversed(self.index.subtree(row)):
            generations.append(self.index.generation[each])
            self._leave_host(each)
            self._leave_disk(each)
            self._forget(each, gone)
        self._bury(gone, reason)
        return generations

    def offer(self, row: int) -> None:
        """Let the policy offer a row again that was passed over."""
        if row in self._passed:
            self._passed.discard(row)
            self._dirty.pop(row, None)
            self.policy.touch([row])

    def offer_all(self) -> None:
        """Let the policy offer again whatever was passed over, for whichever reason."""
        for row in list(self._passed):
            self.offer(row)

    def withdraw(self, rows: Sequence[int]) -> None:
        """Forget rows that never had a place, each behind its children."""
        for row in rows:
            parent = self.index.parent[row]
            self.index.remove(row)
            if parent in self._passed:
                self.offer(parent)

    def _evict_host(self, nbytes: int, count: int, slots: list[int]) -> None:
        """Let blocks leave host memory until there are so many slots.

        A victim whose place is just what is needed hands it over as it is.
        """
        index, host, slab = self.index, self.host, self.host.slab
        places, sizes, on_disk = index.place[HOST], index.nbytes[HOST], index.place[DISK]
        pages = pages_for(nbytes)
        gone = Gone(list)
        freed: list[int] = []
        self._writes_behind = self.disk.takes_writes
        for row in self._host_victims():
            slot = places[row]
            places[row] = ABSENT
            freed.append(sizes[row])
            self._dirty.pop(row, None)
            if on_disk[row] == ABSENT and not self._fall_back(row):
                self._forget(row, gone)
            if slab.is_fit(slot, pages):
                host.wipe(slot)
                slots.append(slot)
            else:
                host.give(slot)
                slots += slab.take_some(nbytes, count - len(slots))
            if len(slots) == count:
                break
        self._count(HOST, len(freed), sum(freed))
        self._bury(gone, Reason.EVICTED)

    def _host_victims(self) -> Iterator[int]:
        """Who leaves host memory: whom the policy names, then what only waits to be written."""
        while True:
            for row, _ in self.policy.victims(HOST, self._may_leave_host):
                yield row
            row = self._next_dirty()
            if row == NONE:
                return
            yield row  # with which its parent may have become a victim

    def _next_dirty(self) -> int:
        """The next row that only waits to be written and may leave; NONE where there is none."""
        while self._dirty:
            row, _ = self._dirty.popitem(last=False)
            slot, is_last = self.index.place[HOST][row], self.index.place[DISK][row] == ABSENT
            is_parent = is_last and self.index.has_children(row)
            if not (is_parent or self.host.slab.is_leased(slot) or self._is_pinned(row)):
                self.counters.dropped_dirty += is_last
                self._passed.discard(row)
                self.policy.forget(HOST, [row])
                return row
        return NONE

    def _host_gate(self) -> MayLeave:
        """What the policy asks of each victim; made once, for it is asked for every block saved."""
        index, pins, passed, dirty = self.index, self.marks.pins, self._passed, self._dirty
        places, on_disk, child = index.place[HOST], index.place[DISK], index.child
        leases, private = self.host.slab.leases, index.private

        def may_leave(row: int, _: Action) -> bool:
            is_last = on_disk[row] == ABSENT
            is_leased = leases[places[row]]
            if (
                is_leased
                or (is_last and child[row] != NONE)
                or (row in pins and pins[row] > self.clock())
            ):
                passed.add(row)
                return False
            if is_last and self._writes_behind and row not in private:
                passed.add(row)
                dirty[row] = None
                return False
            return True

        return may_leave

    def _may_leave_disk(self, row: int, action: Action) -> bool:
        is_held = (
            self.disk.is_leased(self._place_on_disk(row))
            or self._is_pinned(row)
            or self._is_needed_on_disk(row)
            or not self.disk.is_up(self.index.stripe[row])  # its room is of use to nobody now
        )
        if action is Action.DROP and not is_held:
            return True
        self._passed.add(row)
        return False

    def _is_needed_on_disk(self, row: int) -> bool:
        """Whether a child, which may be written yet, is to be reached there through this row."""
        index, on_disk = self.index, self.index.place[DISK]
        if not index.has_children(row):
            return False
        if index.place[HOST][row] == ABSENT:
            return True
        while row != NONE and on_disk[row] != ABSENT:
            row = index.parent[row]
        return row == NONE

    def _is_pinned(self, row: int) -> bool:
        return self.marks.pins.get(row, 0.0) > self.clock()

    def _fall_back(self, row: int) -> bool:
        """Where a better copy is lost before it is on disk, the worse one serves again."""
        worse = self.worse.pop(row, None)
        if worse is None:
            return False
        index = self.index
        index.stripe[row], index.place[DISK][row] = worse.place
        index.nbytes[DISK][row] = worse.nbytes
        index.generation[row] = worse.generation
        index.fidelity[row] = worse.fidelity
        self.outdated.add(row)  # its header does not know what came with the better copy
        self.policy.add(DISK, [row])
        return True

    def _leave_host(self, row: int) -> None:
        places = self.index.place[HOST]
        if places[row] != ABSENT:
            self.host.give(places[row])
            places[row] = ABSENT
            self._dirty.pop(row, None)
            self.policy.forget(HOST, [row])

    def _leave_disk(self, row: int) -> None:
        index = self.index
        if index.place[DISK][row] != ABSENT:
            self.disk.give(self._place_on_disk(row))
            self.disk.forget(index.fid[row])
            index.place[DISK][row] = ABSENT
            self.policy.forget(DISK, [row])

    def _place_on_disk(self, row: int) -> Place:
        return Place(self.index.stripe[row], self.index.place[DISK][row])

    def _forget(self, row: int, gone: Gone) -> None:
        index, passed = self.index, self._passed
        parent = index.parent[row]
        if row in self.worse:
            self.give_up_worse(row)
        gone[index.tenant[row]].append(index.fid[row])
        index.remove(row)
        if row in passed:
            passed.discard(row)
            self._dirty.pop(row, None)
        if row in self.marks:
            self.marks.forget(row)
        if row in self.outdated:
            self.outdated.discard(row)
        if parent in passed:
            self.offer(parent)

    def _count(self, tier: int, blocks: int, nbytes: int) -> None:
        self.counters.evicted[tier] += blocks
        self.counters.evicted_bytes[tier] += nbytes

    def _bury(self, gone: Gone, reason: Reason) -> None:
        """Remember why rows were forgotten."""
        now = self.clock()
        for tenant, fids in gone.items():
            self.ghosts.add(fids, Ghost(reason, now, tenant, self.on_behalf_of))
