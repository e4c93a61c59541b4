"""The benchmark runs, at sizes that say nothing about speed."""

from pathlib import Path

import pytest

from kvstrata.kvstore.errors import ArgumentError
from kvstrata.server.bench import ROWS, measured
from kvstrata.server.bench_figures import Figure, Pairs, Spread, exactly, paired
from kvstrata.server.bench_ground import MIB, Scale

TINY = Scale(
    rounds=2,
    blocks=(MIB // 4,),
    batch=2,
    span=8 * MIB,
    disk=16 * MIB,
    prompt=256,
    entries=200,
    churn=320,
    burst=16 * MIB,
)


@pytest.mark.parametrize("row", ROWS)
def test_every_row_measures_something(row: str, tmp_path: Path) -> None:
    figures = measured([row], TINY, tmp_path)
    assert figures
    for figure in figures:
        assert figure.measured.low <= figure.measured.high
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_row_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="'speed'"):
        measured(["speed"], TINY, tmp_path)


def test_a_figure_knows_on_which_side_of_its_aim_it_should_be() -> None:
    assert Figure("rate", exactly(2.0), 1.0).is_reached
    assert not Figure("rate", exactly(0.5), 1.0).is_reached
    assert Figure("cost", exactly(0.5), 1.0, at_most=True).is_reached
    assert not Figure("cost", exactly(2.0), 1.0, at_most=True).is_reached


def test_a_ratio_is_the_median_of_the_rounds() -> None:
    pairs = Pairs(ours=[1.0, 2.0, 40.0], theirs=[2.0, 2.0, 20.0])
    assert pairs.speed == Spread(1.0, 0.75, 1.5)
    assert pairs.cost.median == 1.0


def test_both_sides_of_a_comparison_are_first_in_turn() -> None:
    order: list[str] = []
    now = iter(range(100))
    pairs = paired(
        lambda _: lambda: order.append("ours"),
        lambda _: lambda: order.append("theirs"),
        rounds=2,
        clock=lambda: float(next(now)),
    )
    assert order == ["theirs", "ours", "ours", "theirs", "theirs", "ours"]
    assert (pairs.ours, pairs.theirs) == ([1.0, 1.0], [1.0, 1.0])
