"""Every policy keeps the contract; and what is particular to each."""

import tracemalloc

from kvstrata.eviction.lru import Lru
from kvstrata.eviction.policies import POLICIES
from kvstrata.eviction.policy import Action
from tests.contracts.policy import PolicyContract, Told, chain, facts, offered, passed_over, record


class TestLru(PolicyContract):
    policy = Lru


def two_chains() -> Told:
    """Blocks 1, 2, 3 of one prefix and then 4, 5, 6 of another on tier 0."""
    policy = Told(Lru)
    policy.add(0, chain(1, 2, 3))
    policy.add(0, chain(4, 5, 6))
    return policy


def test_settings_find_a_policy_by_its_name() -> None:
    assert {name: type(make(facts())) for name, make in POLICIES.items()} == {"lru": Lru}


def test_lru_lets_the_prefix_go_that_was_unused_for_longest_tail_first() -> None:
    assert offered(two_chains(), 0) == [3, 2, 1, 6, 5, 4]


def test_lru_keeps_what_is_touched() -> None:
    policy = two_chains()
    policy.touch([1, 2, 3])
    assert offered(policy, 0) == [6, 5, 4, 3, 2, 1]


def test_lru_keeps_a_head_that_is_used_without_its_tail() -> None:
    policy = two_chains()
    policy.touch([1, 2])
    assert offered(policy, 0) == [3, 6, 5, 4, 2, 1]


def test_lru_lets_a_head_go_next_that_was_used_before_all_else() -> None:
    policy = two_chains()
    policy.add(0, [record(7, 3)])  # a tail is saved, and nobody touched its head
    assert offered(policy, 0) == [6, 5, 4, 7, 3, 2, 1]


def test_lru_counts_a_use_on_every_tier_and_orders_each_by_itself() -> None:
    policy = two_chains()
    policy.add(1, chain(4, 5, 6))
    policy.add(1, chain(1, 2, 3))
    assert offered(policy, 1, at_most=1) == [6]
    policy.touch([4, 5])
    assert offered(policy, 0) == [3, 2, 1, 6, 5, 4]
    assert offered(policy, 1) == [3, 2, 1, 5, 4]


def test_lru_puts_a_block_whose_lease_ended_behind_the_others() -> None:
    policy = two_chains()
    assert passed_over(policy, 0) == [3, 6]
    policy.touch([3])
    policy.touch([6])
    assert offered(policy, 0) == [3, 2, 1, 6, 5, 4]


def test_lru_drops() -> None:
    victims = two_chains().victims(0, lambda block, action: action is Action.DROP)
    assert {action for _, action in victims} == {Action.DROP}


def test_lru_takes_thirteen_bytes_for_a_block_on_a_tier() -> None:
    count = 1 << 18
    known = facts(count)
    tracemalloc.start()
    try:
        policy = Lru(known)
        for first in range(0, count, 1024):
            policy.add(0, range(first, first + 1024))
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert 13 <= taken / count < 13.1
