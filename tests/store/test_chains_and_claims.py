"""What recovery decides for a million frames at once is what one would decide frame by frame."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from kvstrata.kvstore.chains import NONE, by_recency, handed_down, handed_up, reaching
from kvstrata.kvstore.claims import NO_RUNS, Runs, free_runs, unrivalled, used_pages
from kvstrata.kvstore.slab import PAGE_BYTES, Slab

PAGES = 24

Frame = tuple[int, list[tuple[int, int]]]
"""Its slot, and its runs: page and count."""


class Forest(NamedTuple):
    """Blocks and their parents; those without one are first blocks, or lost theirs."""

    parents: list[int]
    is_first: list[bool]
    generations: list[int]

    def chain(self, block: int) -> list[int]:
        """A block and its ancestors, the block first."""
        found = [block]
        while self.parents[found[-1]] != NONE:
            found.append(self.parents[found[-1]])
        return found

    def numbers(self) -> NDArray[np.int32]:
        """The parents as recovery has them."""
        return np.array(self.parents, np.int32)

    def positions(self) -> NDArray[np.uint64]:
        """Where the blocks stand in their prompts."""
        return np.array([16 * len(self.chain(n)) for n in range(len(self.parents))], np.uint64)


@st.composite
def forests(draw: st.DrawFn) -> Forest:
    """A few trees, their blocks in any order."""
    count = draw(st.integers(0, 30))
    above = [draw(st.integers(NONE, number - 1)) for number in range(count)]
    place = draw(st.permutations(range(count)))
    parents = [NONE] * count
    for number, parent in enumerate(above):
        parents[place[number]] = NONE if parent == NONE else place[parent]
    is_first = [parent == NONE and draw(st.booleans()) for parent in parents]
    return Forest(parents, is_first, list(draw(st.permutations(range(1, count + 1)))))


@given(forest=forests())
def test_a_chain_reaches_its_root_if_its_last_ancestor_is_one(forest: Forest) -> None:
    reached = reaching(forest.numbers(), np.array(forest.is_first, np.bool_))
    expected = [forest.is_first[forest.chain(n)[-1]] for n in range(len(forest.parents))]
    assert reached.tolist() == expected


@given(forest=forests())
def test_what_is_handed_down_is_the_greatest_of_all_ancestors(forest: Forest) -> None:
    values = np.array(forest.generations, np.uint64)
    expected = [
        max(forest.generations[a] for a in forest.chain(n)) for n in range(len(forest.parents))
    ]
    assert handed_down(forest.numbers(), values).tolist() == expected


@given(forest=forests())
def test_what_is_handed_up_is_the_greatest_of_all_descendants(forest: Forest) -> None:
    expected = list(forest.generations)
    for block, value in enumerate(forest.generations):
        for ancestor in forest.chain(block):
            expected[ancestor] = max(expected[ancestor], value)
    values = np.array(forest.generations, np.int32)
    assert handed_up(forest.numbers(), values).tolist() == expected


@given(forest=forests())
def test_the_newest_block_was_used_last_and_its_ancestors_with_it(forest: Forest) -> None:
    left = set(range(len(forest.parents)))
    expected: list[int] = []
    while left:
        newest = max(left, key=forest.generations.__getitem__)
        chain = [block for block in reversed(forest.chain(newest)) if block in left]
        expected += chain
        left.difference_update(chain)
    generations = np.array(forest.generations, np.uint64)
    assert by_recency(forest.numbers(), generations, forest.positions()).tolist() == expected


def test_a_chain_may_be_as_long_as_a_prompt() -> None:
    count = 70_001
    parents = np.arange(-1, count - 1, dtype=np.int32)
    is_first = np.arange(count) == 0
    assert reaching(parents, is_first).all()
    assert not reaching(parents, np.zeros(count, np.bool_)).any()
    values = np.zeros(count, np.uint64)
    values[0] = 7
    assert (handed_down(parents, values) == 7).all()
    assert handed_up(parents, np.arange(count, dtype=np.int32))[0] == count - 1


def columns(frames: Sequence[Frame]) -> tuple[NDArray[np.uint32], Runs, NDArray[np.int64]]:
    """Frames as recovery has them."""
    runs = [run for _, own in frames for run in own]
    ends = np.cumsum([0, *(len(own) for _, own in frames)])
    slots = np.array([slot for slot, _ in frames], np.uint32)
    return slots, np.array(runs, NO_RUNS.dtype), ends.astype(np.int64)


def pages_of(frame: Frame) -> list[int]:
    """Every page that a frame names, as often as it does."""
    return [page for first, count in frame[1] for page in range(first, first + count)]


run = st.tuples(st.integers(0, PAGES - 1), st.integers(1, 6)).map(
    lambda run: (run[0], min(run[1], PAGES - run[0]))
)
frame = st.tuples(st.integers(0, 12), st.lists(run, min_size=1, max_size=3))


@example(frames=[(0, [(0, 6)]), (1, [(1, 1)]), (2, [(4, 1)])])  # the last behind one that it meets
@given(frames=st.lists(frame, max_size=8))
def test_a_frame_is_unrivalled_if_nothing_that_it_names_is_named_twice(frames: list[Frame]) -> None:
    slots = [slot for slot, _ in frames]
    pages = [page for each in frames for page in pages_of(each)]
    expected = [
        slots.count(each[0]) == 1 and all(pages.count(page) == 1 for page in pages_of(each))
        for each in frames
    ]
    assert unrivalled(*columns(frames)).tolist() == expected


@given(is_used=st.lists(st.booleans(), max_size=PAGES), cuts=st.sets(st.integers(0, PAGES)))
def test_used_and_free_pages_are_all_there_are(is_used: list[bool], cuts: set[int]) -> None:
    runs: list[tuple[int, int]] = []
    for page in np.flatnonzero(is_used).tolist():
        goes_on = runs and sum(runs[-1]) == page and page not in cuts
        runs = [*runs[:-1], (runs[-1][0], runs[-1][1] + 1)] if goes_on else [*runs, (page, 1)]
    taken = np.array(runs[::-1], NO_RUNS.dtype)
    assert used_pages(taken, len(is_used)).tolist() == is_used
    starts, ends = free_runs(taken, len(is_used))
    free = [page for a, b in zip(starts, ends, strict=True) for page in range(a, b)]
    assert free == [page for page, used in enumerate(is_used) if not used]
    assert (starts[1:] > ends[:-1]).all()  # as few runs as there can be


@given(frames=st.lists(frame, max_size=8), data=st.data())
def test_of_frames_that_claim_the_same_the_newest_has_it(
    frames: list[Frame], data: st.DataObject
) -> None:
    generations = data.draw(st.permutations(range(len(frames))))
    slab = Slab(13, PAGES)
    slots, runs, ends = columns(frames)
    ages = np.array(generations, np.uint64)
    has_its_place = slab.restore(slots, extents=runs, ends=ends, generations=ages)
    pages = dict[int, int]()
    owners = dict[int, int]()
    for number in sorted(range(len(frames)), key=generations.__getitem__, reverse=True):
        named = pages_of(frames[number])
        is_whole = len(set(named)) == len(named)  # one that names a page twice is none
        if is_whole and frames[number][0] not in owners and not pages.keys() & set(named):
            owners[frames[number][0]] = number
            pages.update(dict.fromkeys(named, number))
    assert np.flatnonzero(has_its_place).tolist() == sorted(owners.values())
    assert {slot: slab.extents(slot) for slot in owners} == {
        slot: tuple(frames[number][1]) for slot, number in owners.items()
    }
    assert slab.used_bytes == len(pages) * PAGE_BYTES
    slab.audit()
