"""Who has which header slot and which pages of a slab: the one allocator under every tier.

A slab is header slots of 4 KiB and pages of 16 KiB (docs/format.md).  A frame has one slot, which
is its place, and runs of pages.  Page lists keep 99 % of the pages in use under churn of mixed
sizes, where a buddy allocator falls to 74 %; runs are preferred, for one run is one copy and one
I/O.  The allocator takes the shortest free run that fits, else the longest ones until it is enough.

Bookkeeping only, no bytes; one thread at a time (the store's lock).
"""

from array import array
from bisect import bisect_left, insort
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .claims import NO_RUNS, free_runs, unrivalled, used_pages

PAGE_BYTES = 16 << 10
SLOT_BYTES = 4 << 10
PAGES_PER_SLOT = 8
"""One slot for 128 KiB of pages: slots cost 3 %, and frames from 128 KiB up never lack one."""
MAX_EXTENTS = 200
"""What fits a header slot beside the longest usual meta segment."""

Extent = tuple[int, int]
"""First page, number of pages."""


def pages_for(nbytes: int) -> int:
    """Pages that ``nbytes`` of payload take."""
    return -(-nbytes // PAGE_BYTES)


def slots_for(nbytes: int) -> int:
    """Header slots of a slab of ``nbytes``, slots, pages and superblock together."""
    return max(1, (nbytes - SLOT_BYTES) // (SLOT_BYTES + PAGES_PER_SLOT * PAGE_BYTES))


class FreePages:
    """The free runs of a slab, joined with their neighbours when pages come back."""

    def __init__(self, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> None:
        lengths = ends - starts
        self.free = int(lengths.sum())
        first: list[int] = starts.tolist()
        self._length: dict[int, int] = dict(zip(first, lengths.tolist(), strict=True))
        self._first: dict[int, int] = dict(zip(ends.tolist(), first, strict=True))  # by run's end
        order = np.argsort(lengths, kind="stable")
        distinct, firsts = np.unique(lengths[order], return_index=True)
        groups = np.split(starts[order], firsts[1:])
        self._lengths: list[int] = distinct.tolist()  # ascending
        self._starts: dict[int, set[int]] = {  # by length
            length: set(group.tolist())
            for length, group in zip(self._lengths, groups, strict=False)
        }

    def take(self, count: int) -> tuple[Extent, ...]:
        """Runs of ``count`` pages together, or none where that many are not free."""
        if count > self.free:
            return ()
        runs: list[Extent] = []
        while count:
            if len(runs) == MAX_EXTENTS:
                self.give(runs)
                return ()
            runs.append(self._take_run(count))
            count -= runs[-1][1]
        return tuple(runs)

    def give(self, runs: Sequence[Extent]) -> None:
        """Take runs back."""
        for start, length in runs:
            before = self._first.get(start)
            if before is not None:
                length += self._remove(before)
                start = before
            if start + length in self._length:
                length += self._remove(start + length)
            self._add(start, length)

    def take_range(self, start: int, count: int) -> bool:
        """Take just these pages; False unless all of them are free."""
        end = start + count
        lengths = self._lengths[bisect_left(self._lengths, count) :]  # of fragments there are many
        runs = ((run, n) for n in lengths for run in self._starts[n])
        run = next((run for run, n in runs if run <= start and end <= run + n), None)
        if run is None:
            return False
        run_end = run + self._remove(run)
        if run < start:
            self._add(run, start - run)
        if end < run_end:
            self._add(end, run_end - end)
        return True

    def _take_run(self, count: int) -> Extent:
        position = bisect_left(self._lengths, count)
        length = self._lengths[min(position, len(self._lengths) - 1)]
        start = self._starts[length].pop()  # the first of a large set is slow to find
        self._remove(start)
        if length > count:
            self._add(start + count, length - count)
        return start, min(length, count)

    def _add(self, start: int, length: int) -> None:
        self.free += length
        self._length[start] = length
        self._first[start + length] = start
        starts = self._starts.get(length)
        if starts is None:
            self._starts[length] = {start}
            insort(self._lengths, length)
        else:
            starts.add(start)

    def _remove(self, start: int) -> int:
        length = self._length.pop(start)
        self.free -= length
        del self._first[start + length]
        starts = self._starts[length]
        starts.discard(start)
        if not starts:
            del self._starts[length]
            del self._lengths[bisect_left(self._lengths, length)]
        return length


class Slab:
    """Slots and pages of one medium; a frame's place is its slot number."""

    def __init__(self, slots: int, pages: int) -> None:
        self.slots = slots
        self.pages = pages
        self._free_slots = _descending(range(slots))
        self._free_pages = FreePages(*free_runs(NO_RUNS, pages))
        self.first = np.zeros(slots, np.uint32).data  # page of each place's first run
        self._count = np.zeros(slots, np.uint32).data  # of its pages; 0: free
        self._scattered: dict[int, tuple[Extent, ...]] = {}  # slots with several extents
        self.leases = np.zeros(slots, np.uint16).data  # of each place
        self._borrowed = 0  # pages
        self._borrowed_slots = 0
        self._retired: set[int] = set()  # given back while leased; freed by the last release

    @property
    def free_bytes(self) -> int:
        """Payload bytes that could still be taken, were slots no limit."""
        return self._free_pages.free * PAGE_BYTES

    @property
    def used_bytes(self) -> int:
        """Bytes of the pages that frames have."""
        return (self.pages - self._free_pages.free - self._borrowed) * PAGE_BYTES

    @property
    def room_bytes(self) -> int:
        """Bytes of the pages that no frame has, borrowed ones too: they come back."""
        return self.pages * PAGE_BYTES - self.used_bytes

    @property
    def used_slots(self) -> int:
        """Frames that have a place."""
        return self.slots - len(self._free_slots) - self._borrowed_slots

    def take(self, nbytes: int) -> int:
        """A place for ``nbytes`` of payload, or -1 where slots or pages do not suffice."""
        if not self._free_slots:
            return -1
        extents = self._free_pages.take(pages_for(nbytes))
        if not extents:
            return -1
        slot = self._free_slots.pop()
        self._assign(slot, extents)
        return slot

    def take_some(self, nbytes: int, count: int) -> list[int]:
        """So many places for ``nbytes`` each, or as many as there are."""
        slots: list[int] = []
        while len(slots) < count and (slot := self.take(nbytes)) >= 0:
            slots.append(slot)
        return slots

    def give(self, slot: int) -> None:
        """Take a place back, at once or with its last lease."""
        if self.leases[slot]:
            self._retired.add(slot)
        else:
            self._free(slot)

    def is_taken(self, slot: int) -> bool:
        """Whether a frame has the place."""
        return self._count[slot] > 0

    def is_fit(self, slot: int, pages: int) -> bool:
        """Whether a taken place is one run of just so many pages."""
        return self._count[slot] == pages and slot not in self._scattered

    def lease(self, slot: int) -> None:
        """Keep a place from being used again: a reader or an I/O has it."""
        self.leases[slot] += 1

    def release(self, slot: int) -> bool:
        """End one lease; True where it was the last."""
        self.leases[slot] -= 1
        if self.leases[slot]:
            return False
        if slot in self._retired:
            self._retired.discard(slot)
            self._free(slot)
        return True

    def release_all(self, slots: Sequence[int]) -> None:
        """End one lease of each place."""
        leases, retired = self.leases, self._retired
        for slot in slots:
            left = leases[slot] = leases[slot] - 1
            if not left and slot in retired:
                retired.discard(slot)
                self._free(slot)

    def is_leased(self, slot: int) -> bool:
        """Whether a reader or an I/O has the place."""
        return self.leases[slot] > 0

    def is_shared(self, slot: int) -> bool:
        """Whether a place has more than one lease."""
        return self.leases[slot] > 1

    @property
    def leased(self) -> int:
        """Places with a lease: 0 when nobody reads and no I/O is in flight."""
        return int(np.count_nonzero(self.leases))

    def borrow(self, extent: Extent) -> bool:
        """Take free pages without a slot, to be given back with ``give_back``."""
        is_free = self._free_pages.take_range(*extent)
        self._borrowed += is_free * extent[1]
        return is_free

    def borrow_slots(self, keep: int) -> range:
        """Take all slots of an unused slab but the first ``keep``, which are used first."""
        taken = self._free_slots[: max(0, len(self._free_slots) - keep)]
        numbers = np.frombuffer(taken, np.uint32)
        slots = range(int(numbers.min()), int(numbers.max()) + 1) if taken else range(0)
        if len(slots) != len(taken):
            return range(0)  # no longer unused
        del self._free_slots[: len(taken)]
        self._borrowed_slots += len(slots)
        return slots

    def give_back_slots(self, slots: range) -> None:
        """Take borrowed slots back, to be used last."""
        self._borrowed_slots -= len(slots)
        self._free_slots = _descending(slots) + self._free_slots

    def give_back(self, extent: Extent) -> None:
        """Take borrowed pages back."""
        self._borrowed -= extent[1]
        self._free_pages.give([extent])

    def extents(self, slot: int) -> tuple[Extent, ...]:
        """The runs of pages of a place, in payload order."""
        if slot in self._scattered:
            return self._scattered[slot]
        return ((self.first[slot], self._count[slot]),)

    def is_scattered(self, slot: int) -> bool:
        """Whether a place has several runs of pages."""
        return slot in self._scattered

    def restore(
        self,
        slots: NDArray[np.uint32],
        *,
        extents: NDArray[np.void],
        ends: NDArray[np.int64],
        generations: NDArray[np.uint64],
    ) -> NDArray[np.bool_]:
        """Claim places in an empty slab: which of the frames have theirs, bool ``[n]``.

        Frame i has the runs ``ends[i]..ends[i + 1]`` of ``extents`` (fields page and count), one at
        least, all in the slab.  Of those that claim one slot or one page the newest has it.
        """
        is_own = unrivalled(slots, extents, ends)
        here, first = slots[is_own], extents.take(ends[:-1][is_own])
        np.asarray(self.first)[here] = first["page"]
        np.asarray(self._count)[here] = first["count"]
        for number in np.flatnonzero(is_own & (np.diff(ends) > 1)).tolist():
            self._scattered[int(slots[number])] = _runs(extents, ends, number)
        rivals = np.flatnonzero(~is_own)
        if len(rivals):
            used = used_pages(extents.compress(np.repeat(is_own, np.diff(ends))), self.pages)
            for number in rivals[np.argsort(generations[rivals])][::-1].tolist():
                is_own[number] = self._claim(int(slots[number]), _runs(extents, ends, number), used)
        taken = extents.compress(np.repeat(is_own, np.diff(ends)))
        self._free_pages = FreePages(*free_runs(taken, self.pages))
        free = np.flatnonzero(np.asarray(self._count) == 0)
        self._free_slots = array("I", free[::-1].astype(np.uint32).tobytes())
        return is_own

    def audit(self) -> None:
        """Raise AssertionError unless free and used add up to the whole."""
        used = sum(count for slot in range(self.slots) if (count := self._pages_of(slot)))
        assert self._free_pages.free + used + self._borrowed == self.pages, "pages leaked"
        busy = sum(1 for count in self._count if count)
        assert busy + len(self._free_slots) + self._borrowed_slots == self.slots, "slots leaked"

    def _free(self, slot: int) -> None:
        self._free_pages.give(self.extents(slot))
        self._count[slot] = 0
        self._scattered.pop(slot, None)
        self._free_slots.append(slot)

    def _pages_of(self, slot: int) -> int:
        if slot in self._scattered:
            return sum(count for _, count in self._scattered[slot])
        return self._count[slot]

    def _claim(self, slot: int, extents: tuple[Extent, ...], used: NDArray[np.bool_]) -> bool:
        if self._count[slot]:
            return False
        for number, (start, count) in enumerate(extents):
            if used[start : start + count].any():
                for start, count in extents[:number]:
                    used[start : start + count] = False
                return False
            used[start : start + count] = True
        self._assign(slot, extents)
        return True

    def _assign(self, slot: int, extents: tuple[Extent, ...]) -> None:
        self.first[slot], self._count[slot] = extents[0]
        if len(extents) > 1:
            self._scattered[slot] = extents


def _descending(slots: range) -> "array[int]":
    """Slot numbers, the last first: the first is taken first."""
    numbers = array("I")
    numbers.frombytes(np.arange(slots.start, slots.stop, dtype=np.uint32)[::-1].tobytes())
    return numbers


def _runs(extents: NDArray[np.void], ends: NDArray[np.int64], number: int) -> tuple[Extent, ...]:
    runs: list[Extent] = extents[ends[number] : ends[number + 1]].tolist()
    return tuple(runs)
