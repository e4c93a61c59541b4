"""The allocator: no two places share a page, nothing leaks, and hardly any page stays unused."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kvstrata.kvstore.slab import (
    MAX_EXTENTS,
    PAGE_BYTES,
    PAGES_PER_SLOT,
    SLOT_BYTES,
    Slab,
    pages_for,
    slots_for,
)

KIB, MIB = 1 << 10, 1 << 20


def _with_free(runs: Sequence[int]) -> Slab:
    """A slab whose free runs have these lengths, one used page between two of them."""
    slab = Slab(slots=2000, pages=sum(runs) + len(runs) - 1)
    for number, length in enumerate(runs):
        if number:
            slab.take(PAGE_BYTES)
        slab.take(length * PAGE_BYTES)
    for slot in [s for s in range(slab.slots) if slab.is_taken(s)][::2]:
        slab.give(slot)
    assert slab.free_bytes == sum(runs) * PAGE_BYTES
    return slab


def test_a_run_is_preferred_to_pieces_and_the_shortest_to_longer_ones() -> None:
    slab = _with_free([10, 19, 28, 39])
    for pages in (19, 39, 27, 9):
        assert len(slab.extents(slab.take(pages * PAGE_BYTES))) == 1
    assert slab.free_bytes == 2 * PAGE_BYTES
    assert len(slab.extents(slab.take(2 * PAGE_BYTES))) == 2


def test_more_than_there_is_is_refused_and_takes_nothing() -> None:
    slab = _with_free([4, 6])
    assert slab.take(11 * PAGE_BYTES) == -1
    assert slab.free_bytes == 10 * PAGE_BYTES
    assert sorted(count for _, count in slab.extents(slab.take(10 * PAGE_BYTES))) == [4, 6]


def test_pages_scattered_beyond_what_a_header_can_list_are_refused_and_stay_free() -> None:
    slab = _with_free([1] * (MAX_EXTENTS + 50))
    assert slab.take((MAX_EXTENTS + 1) * PAGE_BYTES) == -1
    assert slab.free_bytes == (MAX_EXTENTS + 50) * PAGE_BYTES
    assert len(slab.extents(slab.take(MAX_EXTENTS * PAGE_BYTES))) == MAX_EXTENTS
    slab.audit()


def test_what_comes_back_is_joined_with_its_neighbours() -> None:
    slab = Slab(slots=8, pages=64)
    slots = [slab.take(8 * PAGE_BYTES) for _ in range(8)]
    for number in (0, 2, 1, 7, 3, 5, 6, 4):
        slab.give(slots[number])
    assert slab.extents(slab.take(64 * PAGE_BYTES)) == ((0, 64),)


class SlabMachine(RuleBasedStateMachine):
    """Places taken, leased, released and given back in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.slab = Slab(slots=24, pages=128)
        self.taken: list[int] = []
        self.leases: list[int] = []
        self.given: set[int] = set()
        self.borrowed: list[tuple[int, int]] = []

    @rule(nbytes=st.integers(1, 40 * PAGE_BYTES))
    def take(self, nbytes: int) -> None:
        slot = self.slab.take(nbytes)
        if slot < 0:
            return
        assert slot not in self.taken
        extents = self.slab.extents(slot)
        assert sum(count for _, count in extents) == pages_for(nbytes)
        assert self.slab.is_taken(slot)
        self.taken.append(slot)

    @precondition(lambda self: self.taken)
    @rule(which=st.integers(0, 100))
    def give(self, which: int) -> None:
        slot = self.taken[which % len(self.taken)]
        if slot in self.given:
            return
        self.slab.give(slot)
        if slot in self.leases:
            self.given.add(slot)
            assert self.slab.is_taken(slot)
        else:
            self.taken.remove(slot)

    @precondition(lambda self: self.taken)
    @rule(which=st.integers(0, 100))
    def lease(self, which: int) -> None:
        slot = self.taken[which % len(self.taken)]
        self.slab.lease(slot)
        self.leases.append(slot)

    @precondition(lambda self: self.leases)
    @rule(which=st.integers(0, 100))
    def release(self, which: int) -> None:
        slot = self.leases.pop(which % len(self.leases))
        assert self.slab.release(slot) == (slot not in self.leases)
        if slot in self.given and slot not in self.leases:
            self.given.remove(slot)
            self.taken.remove(slot)

    @rule(start=st.integers(0, 127), count=st.integers(1, 40))
    def borrow(self, start: int, count: int) -> None:
        runs = [run for slot in self.taken for run in self.slab.extents(slot)] + self.borrowed
        is_free = start + count <= 128 and not any(
            first < start + count and start < first + length for first, length in runs
        )
        assert self.slab.borrow((start, count)) == is_free
        if is_free:
            self.borrowed.append((start, count))

    @precondition(lambda self: self.borrowed)
    @rule(which=st.integers(0, 100))
    def give_back(self, which: int) -> None:
        self.slab.give_back(self.borrowed.pop(which % len(self.borrowed)))

    @invariant()
    def nothing_overlaps_and_nothing_leaks(self) -> None:
        self.slab.audit()
        taken = [run for slot in self.taken for run in self.slab.extents(slot)]
        runs = sorted(taken + self.borrowed)
        assert all(start + count <= after for (start, count), (after, _) in pairwise(runs))
        assert self.slab.used_bytes == sum(count for _, count in taken) * PAGE_BYTES
        assert self.slab.free_bytes == (128 - sum(count for _, count in runs)) * PAGE_BYTES
        assert self.slab.used_slots == len(self.taken)
        assert self.slab.leased == len(set(self.leases))
        assert all(self.slab.is_leased(slot) for slot in self.leases)


TestSlab = SlabMachine.TestCase
TestSlab.settings = settings(deadline=None, stateful_step_count=60)


def test_a_slab_without_slots_or_pages_has_no_place() -> None:
    slab = Slab(slots=2, pages=100)
    assert slab.take(1) >= 0
    assert slab.take(1) >= 0
    assert slab.take(1) == -1
    assert Slab(slots=100, pages=2).take(3 * PAGE_BYTES) == -1


@pytest.mark.parametrize("nbytes", [MIB, 4 * MIB, 64 * MIB, 10 << 30])
def test_slots_and_pages_fit_what_a_slab_is_given(nbytes: int) -> None:
    slots = slots_for(nbytes)
    assert SLOT_BYTES + slots * (SLOT_BYTES + PAGES_PER_SLOT * PAGE_BYTES) <= nbytes
    assert slots >= nbytes // (SLOT_BYTES + PAGES_PER_SLOT * PAGE_BYTES) - 1


def _utilisation(sizes: Callable[[np.random.Generator], int], nbytes: int) -> float:
    """The least payload over slab, headers reckoned in, while the oldest make way for new ones."""
    random = np.random.default_rng(5)
    slots = slots_for(nbytes)
    slab = Slab(slots, (nbytes - (slots + 1) * SLOT_BYTES) // PAGE_BYTES)
    held: list[tuple[int, int]] = []
    payload = 0
    shares: list[float] = []
    while len(shares) < 3000:
        size, had_room = sizes(random), True
        while (slot := slab.take(size)) < 0:
            old, freed = held.pop(0)
            slab.give(old)
            payload -= freed
            had_room = False
        held.append((slot, size))
        payload += size
        if shares or not had_room:  # full for the first time
            shares.append(payload / nbytes)
    slab.audit()
    return float(np.mean(shares))


MIXES: dict[str, tuple[Callable[[np.random.Generator], int], float]] = {
    "one size of 1 MiB": (lambda _: MIB, 0.95),
    "blocks of 1 to 4 MiB": (lambda r: int(r.choice([MIB, 2 * MIB, 4 * MIB])), 0.95),
    "any size from 1 to 4 MiB": (lambda r: int(r.integers(MIB, 4 * MIB)), 0.95),
    "one size of 128 KiB": (lambda _: 128 * KIB, 0.90),
    "shards of 128 to 512 KiB": (lambda r: int(r.choice([128, 256, 512])) * KIB, 0.90),
    "encoded to two thirds": (lambda r: int(r.integers(1300, 1450)) * KIB, 0.95),
    "a model's odd frames": (lambda r: int(r.choice([720, 1440])) * KIB, 0.90),
}


@pytest.mark.parametrize("mix", MIXES)
def test_hardly_any_of_a_slab_stays_unused_under_churn(mix: str) -> None:
    sizes, least = MIXES[mix]
    assert _utilisation(sizes, 256 * MIB) >= least
