"""The index: rows by frame id, children by parent, rows used again, nothing left behind."""

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kvstrata.kvstore.index import ABSENT, DISK, HOST, NONE, Index
from kvstrata.kvstore.opening import ROW_BYTES


def _fid(number: int) -> bytes:
    return bytes([number % 256]) + number.to_bytes(33, "little")


def test_a_frame_id_leads_to_its_row_and_to_no_other() -> None:
    index = Index(10)
    row = index.insert(_fid(1), NONE, 1)
    assert index.find(_fid(1)) == row
    assert index.find(_fid(2)) == NONE
    assert index.find_all([_fid(2), _fid(1)]) == [NONE, row]
    assert index.fid[row] == _fid(1)


def test_a_new_row_is_on_no_tier() -> None:
    index = Index(2)
    row = index.insert(_fid(1), NONE, 1)
    index.private.add(row)
    index.remove(row)
    again = index.insert(_fid(2), NONE, 1)
    assert again == row
    assert index.place[HOST][again] == index.place[DISK][again] == ABSENT
    assert again not in index.private


def test_a_row_is_used_again_only_when_it_was_removed() -> None:
    index = Index(3)
    rows = [index.insert(_fid(n), NONE, 1) for n in range(3)]
    assert sorted(rows) == [0, 1, 2]
    with pytest.raises(IndexError):
        index.insert(_fid(9), NONE, 1)


class IndexMachine(RuleBasedStateMachine):
    """Inserts and removals beside a dict and sets."""

    capacity = 30

    def __init__(self) -> None:
        super().__init__()
        self.index = Index(self.capacity)
        self.rows: dict[bytes, int] = {}
        self.parents: dict[int, int] = {}

    @precondition(lambda self: len(self.rows) < self.capacity)
    @rule(number=st.integers(0, 600), under=st.integers(-3, 30))
    def insert(self, number: int, under: int) -> None:
        if _fid(number) in self.rows:
            return
        parent = NONE
        if under >= 0 and self.rows:
            parent = list(self.rows.values())[under % len(self.rows)]
        row = self.index.insert(_fid(number), parent, 1)
        assert row not in self.parents
        self.rows[_fid(number)] = row
        self.parents[row] = parent

    @precondition(lambda self: self.rows)
    @rule(which=st.integers(0, 100))
    def remove_a_subtree(self, which: int) -> None:
        row = list(self.rows.values())[which % len(self.rows)]
        subtree = self.index.subtree(row)
        assert subtree[0] == row
        assert set(subtree) == self._below(row)
        for each in reversed(subtree):  # children before parents
            del self.rows[bytes(self.index.fid[each])], self.parents[each]
            self.index.remove(each)

    def _below(self, row: int) -> set[int]:
        found = {row}
        while True:
            more = {child for child, parent in self.parents.items() if parent in found} - found
            if not more:
                return found
            found |= more

    @invariant()
    def it_agrees_with_the_dict(self) -> None:
        assert self.index.live == len(self.rows)
        assert self.index.rows().tolist() == sorted(self.rows.values())
        assert self.index.find_all(list(self.rows)) == list(self.rows.values())
        for row, parent in self.parents.items():
            assert self.index.parent[row] == parent
            children = {child for child, above in self.parents.items() if above == row}
            assert set(self.index.children(row)) == children
        roots = {row for row, parent in self.parents.items() if parent == NONE}
        assert set(self.index.roots()) == roots


TestIndex = IndexMachine.TestCase
TestIndex.settings = settings(deadline=None, stateful_step_count=60)


def test_the_columns_of_a_row_cost_no_more_than_the_budget_says() -> None:
    """Arrays of fixed width: what is charged for a row covers them."""
    index = Index(1000)
    widths = [np.asarray(column).itemsize for column in _columns(index)]
    assert sum(widths) + 2 * 8 < ROW_BYTES


def _columns(index: Index) -> list[memoryview]:
    own = [value for value in vars(index).values() if isinstance(value, memoryview)]
    return [*own, *index.place, *index.nbytes]
