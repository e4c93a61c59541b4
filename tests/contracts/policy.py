"""What every eviction policy keeps to.  An implementation adds two lines:

class TestMine(PolicyContract):
    policy = Mine
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from kvstrata.eviction.policy import ROOT, Action, Facts, Hint, Policy, Victim

TIERS = (0, 1)
BLOCKS = 24  # so few that numbers are soon used again

Record = tuple[int, int]
"""A block and its parent."""


def record(block: int, parent: int = ROOT) -> Record:
    """A block below another, or below none."""
    return block, parent


def chain(*blocks: int, parent: int = ROOT) -> list[Record]:
    """Blocks that follow each other, root first."""
    parents = (parent, *blocks)
    return [record(block, above) for block, above in zip(blocks, parents, strict=False)]


def facts(blocks: int = BLOCKS) -> Facts:
    """Columns of so many blocks of 2 MiB and 64 tokens, none of which has a parent yet."""
    return Facts(
        keys=np.array([block.to_bytes(34, "little") for block in range(blocks)], np.object_),
        parents=np.full(blocks, ROOT, np.int32),
        nbytes=tuple(np.full(blocks, 2 << 20, np.uint32) for _ in TIERS),
        tokens=np.full(blocks, 64, np.uint32),
        tenants=np.zeros(blocks, np.uint32),
        fidelities=np.full(blocks, 255, np.uint8),
        expiries=np.zeros(blocks),
    )


class Told:
    """A policy, told of blocks by somebody who keeps the columns."""

    def __init__(self, make: Callable[[Facts], Policy], *, blocks: int = BLOCKS) -> None:
        self._facts = facts(blocks)
        self._policy = make(self._facts)
        self.touch, self.forget = self._policy.touch, self._policy.forget
        self.advise, self.victims = self._policy.advise, self._policy.victims

    def add(self, tier: int, records: Sequence[Record]) -> None:
        """These blocks are on a tier now."""
        for block, parent in records:
            self._facts.parents[block] = parent
        self._policy.add(tier, [block for block, _ in records])


def offered(policy: Told, tier: int, *, at_most: int = 1 << 30) -> list[int]:
    """The next victims, all of which may leave."""
    taken: list[int] = []
    for block, _ in policy.victims(tier, lambda block, action: True):
        taken.append(block)
        if len(taken) == at_most:
            break
    return taken


def passed_over(policy: Told, tier: int) -> list[int]:
    """What a store is asked about that lets none of them leave."""
    asked: list[int] = []

    def may_leave(block: int, action: Action) -> bool:
        asked.append(block)
        return False

    assert list(policy.victims(tier, may_leave)) == []
    return asked


class PolicyContract:
    """Inherit, and give ``policy``, what makes one from facts."""

    policy: Callable[[Facts], Policy]

    def test_nothing_is_offered_where_nothing_is(self) -> None:
        policy = Told(self.policy)
        assert passed_over(policy, 0) == []
        policy.add(0, [record(1)])
        assert passed_over(policy, 1) == []

    def test_every_block_is_offered_a_child_before_its_parent(self) -> None:
        policy = Told(self.policy)
        policy.add(0, chain(1, 2, 3))
        policy.add(0, chain(4, 5, parent=2))
        order = offered(policy, 0)
        assert sorted(order) == [1, 2, 3, 4, 5]
        assert order.index(1) > order.index(2) > max(order.index(3), order.index(4))
        assert order.index(4) > order.index(5)

    def test_a_parent_is_not_offered_while_a_child_stays(self) -> None:
        policy = Told(self.policy)
        policy.add(0, chain(1, 2, 3))
        assert passed_over(policy, 0) == [3]

    def test_a_child_on_another_tier_holds_nobody(self) -> None:
        policy = Told(self.policy)
        policy.add(0, chain(1, 2))
        policy.add(1, [record(1)])
        assert offered(policy, 1) == [1]
        assert offered(policy, 0) == [2, 1]

    def test_a_parent_may_come_after_its_child(self) -> None:
        policy = Told(self.policy)
        policy.add(1, chain(1, 2, 3))
        policy.add(0, [record(3, 2)])
        policy.add(0, chain(1, 2))
        assert offered(policy, 0) == [3, 2, 1]

    def test_a_block_that_was_passed_over_waits_for_a_touch(self) -> None:
        policy = Told(self.policy)
        policy.add(0, [record(1), record(2)])
        assert sorted(passed_over(policy, 0)) == [1, 2]
        assert passed_over(policy, 0) == []
        policy.touch([2])
        assert offered(policy, 0) == [2]
        policy.touch([1])
        assert offered(policy, 0) == [1]

    def test_a_block_that_was_passed_over_waits_though_a_child_comes_and_goes(self) -> None:
        policy = Told(self.policy)
        policy.add(0, [record(1)])
        assert passed_over(policy, 0) == [1]
        policy.add(0, [record(2, 1)])
        assert offered(policy, 0) == [2]
        policy.touch([1])
        assert offered(policy, 0) == [1]

    def test_what_is_given_has_left(self) -> None:
        policy = Told(self.policy)
        policy.add(0, chain(1, 2))
        assert offered(policy, 0, at_most=1) == [2]
        policy.forget(0, [2])
        policy.touch([2])
        assert offered(policy, 0) == [1]

    def test_what_was_not_asked_about_stays_as_it_was(self) -> None:
        policy = Told(self.policy)
        policy.add(0, [record(1), record(2)])
        assert sorted(offered(policy, 0, at_most=1) + offered(policy, 0)) == [1, 2]

    def test_a_touched_block_is_asked_about_again_by_the_same_iterator(self) -> None:
        policy = Told(self.policy)
        policy.add(0, [record(1), record(2)])
        busy = {1, 2}
        victims = policy.victims(0, lambda block, action: block not in busy)
        assert next(victims, None) is None
        busy.clear()
        policy.touch([1])
        assert offered(policy, 0) == [1]

    def test_the_iterator_survives_what_the_store_does_meanwhile(self) -> None:
        policy = Told(self.policy)
        policy.add(0, [record(block) for block in range(4)])
        victims = policy.victims(0, lambda block, action: True)
        first, _ = next(victims)
        rest = [block for block in range(4) if block != first]
        policy.add(0, chain(10, 11, parent=rest[0]))  # a leaf no more, and a new chain
        policy.forget(0, rest[1:])
        policy.touch([10, 11])
        assert [block for block, _ in victims] == [11, 10, rest[0]]

    def test_blocks_leave_in_any_order(self) -> None:
        policy = Told(self.policy)
        policy.add(0, [*chain(1, 2, 3, 4), record(5)])
        policy.forget(0, [1, 3, 2, 4])
        assert offered(policy, 0) == [5]

    def test_a_number_is_used_again_for_another_block(self) -> None:
        policy = Told(self.policy)
        policy.add(0, chain(1, 2))
        assert offered(policy, 0) == [2, 1]
        policy.add(0, chain(2, 1))
        assert offered(policy, 0) == [1, 2]

    def test_a_block_that_comes_again_is_there_once(self) -> None:
        policy = Told(self.policy)
        policy.add(0, chain(1, 2))
        policy.add(0, chain(1, 2))
        assert offered(policy, 0) == [2, 1]

    def test_what_is_not_there_does_no_harm(self) -> None:
        policy = Told(self.policy)
        policy.touch([7, BLOCKS - 1])
        policy.forget(0, [7])
        policy.add(0, [record(1)])
        policy.forget(1, [1])
        policy.forget(0, [2, BLOCKS - 1])
        policy.touch([])
        policy.add(0, [])
        assert offered(policy, 0) == [1]

    def test_hints_lose_no_block(self) -> None:
        policy = Told(self.policy)
        policy.add(0, chain(1, 2))
        policy.advise([Hint(2, "a name that nobody knows", 1.0), Hint(9, "session_end", 1.0)])
        assert offered(policy, 0) == [2, 1]

    def test_any_history_agrees_with_a_plain_model(self) -> None:
        class Mine(History):
            make = staticmethod(self.policy)

        run_state_machine_as_test(
            Mine,
            settings=settings(
                deadline=None,
                stateful_step_count=40,
                suppress_health_check=[HealthCheck.differing_executors],
            ),
        )


class History(RuleBasedStateMachine):
    """What a store may do to a policy, with sets and dicts that know what it may answer."""

    make: Callable[[Facts], Policy]

    def __init__(self) -> None:
        super().__init__()
        self.policy = Told(self.make)
        self.parents: dict[int, int] = {}  # of blocks that are resident anywhere
        self.resident: dict[int, set[int]] = {tier: set() for tier in TIERS}
        self.passed: dict[int, set[int]] = {tier: set() for tier in TIERS}

    @rule(tier=st.sampled_from(TIERS), data=st.data())
    def save(self, tier: int, data: st.DataObject) -> None:
        """New blocks below one that is there, or below none."""
        free = [block for block in range(BLOCKS) if block not in self.parents]
        count = data.draw(st.integers(0, min(4, len(free))))
        new = data.draw(st.permutations(free))[:count]
        parent = data.draw(st.sampled_from([ROOT, *sorted(self.parents)]))
        self._add(tier, chain(*new, parent=parent))

    @rule(tier=st.sampled_from(TIERS), data=st.data())
    @precondition(lambda self: self.parents)
    def copy(self, tier: int, data: st.DataObject) -> None:
        """Blocks that are somewhere come to a tier, whether or not their parents are there."""
        chosen = data.draw(st.sets(st.sampled_from(sorted(self.parents)), min_size=1, max_size=4))
        ordered = sorted(chosen, key=lambda block: len(self._path(block)))
        self._add(tier, [record(block, self.parents[block]) for block in ordered])

    @rule(data=st.data())
    @precondition(lambda self: self.parents)
    def use(self, data: st.DataObject) -> None:
        """A prefix is used, or one block by itself."""
        block = data.draw(st.sampled_from(sorted(self.parents)))
        self._touch(self._path(block) if data.draw(st.booleans()) else [block])

    @rule(tier=st.sampled_from(TIERS), data=st.data())
    @precondition(lambda self: self.parents)
    def drop(self, tier: int, data: st.DataObject) -> None:
        """A block leaves with all that hangs from it, in any order."""
        block = data.draw(st.sampled_from(sorted(self.parents)))
        below = [each for each in sorted(self.parents) if block in self._path(each)]
        self._forget(tier, data.draw(st.permutations(below)))

    @rule(
        tier=st.sampled_from(TIERS),
        answers=st.lists(st.booleans(), max_size=8),
        events=st.lists(st.sampled_from(["none", "touch", "save", "stop"]), max_size=8),
    )
    def make_room(self, tier: int, answers: list[bool], events: list[str]) -> None:
        """Let some leave and others not; use and save in between, and stop asking."""
        answer, event = iter(answers), iter(events)
        for block in self._leaving(tier, lambda _: next(answer, False)):
            happens = next(event, "none")
            if happens == "stop":
                return
            if happens == "touch":
                self._touch(self._path(max(self.parents, default=block)))
            elif happens == "save":
                self._save_below(tier, min(self.parents, default=ROOT))

    @rule(tier=st.sampled_from(TIERS))
    def drain(self, tier: int) -> None:
        """All leave but what was passed over, and its parents."""
        kept = self._held(tier)
        for _ in self._leaving(tier, lambda _: True):
            pass
        assert self.resident[tier] == kept

    def _held(self, tier: int) -> set[int]:
        """Blocks of a tier that were passed over or have such a block below them there."""
        held = set(self.passed[tier])
        while above := {self.parents[block] for block in held} & self.resident[tier] - held:
            held |= above
        return held

    def _leaving(self, tier: int, answer: Callable[[int], bool]) -> Iterator[int]:
        """The policy's victims, each held to what may be asked about and what may leave."""
        allowed: list[Victim] = []

        def may_leave(block: int, action: Action) -> bool:
            assert block in self.resident[tier] - self.passed[tier]
            assert block not in [self.parents[child] for child in self.resident[tier]]
            if answer(block):
                allowed.append((block, action))
                return True
            self.passed[tier].add(block)
            return False

        for victim in self.policy.victims(tier, may_leave):
            assert allowed == [victim]
            allowed.clear()
            self._left(tier, victim[:1])
            yield victim[0]

    def _save_below(self, tier: int, block: int) -> None:
        free = [each for each in range(BLOCKS) if each not in self.parents]
        self._add(tier, chain(*free[:1], parent=block))

    def _path(self, block: int) -> list[int]:
        """A block and what is above it and resident anywhere, root first."""
        path: list[int] = []
        while block in self.parents:
            path.append(block)
            block = self.parents[block]
        return path[::-1]

    def _add(self, tier: int, records: Sequence[Record]) -> None:
        self.policy.add(tier, records)
        for block, parent in records:
            self.parents[block] = parent
            self.resident[tier].add(block)
            self.passed[tier].discard(block)

    def _touch(self, blocks: Sequence[int]) -> None:
        self.policy.touch(blocks)
        for tier in TIERS:
            self.passed[tier] -= set(blocks)

    def _forget(self, tier: int, blocks: Sequence[int]) -> None:
        self.policy.forget(tier, blocks)
        self._left(tier, blocks)

    def _left(self, tier: int, blocks: Sequence[int]) -> None:
        for collection in (self.resident, self.passed):
            collection[tier] -= set(blocks)
        self._release()

    def _release(self) -> None:
        """Numbers of blocks that are nowhere, and have nothing below them anywhere, are free."""
        everywhere = set().union(*self.resident.values())
        needed = {above for block in everywhere for above in self._path(block)}
        for block in [block for block in self.parents if block not in needed]:
            del self.parents[block]
