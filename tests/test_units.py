"""Sizes and durations as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstrata.kvstore.units import format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("0", 0),
        ("4096", 4096),
        ("4096B", 4096),
        ("20GiB", 20 << 30),
        ("20 GiB", 20 << 30),
        (" 512MiB ", 512 << 20),
        ("1.5GiB", 3 << 29),
        ("20GB", 20 * 10**9),
        ("3kB", 3000),
        ("3KiB", 3072),
        ("0.3KiB", 307),
        ("2TiB", 2 << 40),
    ],
)
def test_a_size_has_a_binary_unit_an_si_unit_or_none(text: str, nbytes: int) -> None:
    assert parse_size(text) == nbytes


@pytest.mark.parametrize(
    "text",
    [
        *("", "GiB", "20G", "20gb", "20Gib", "-1", "-1GiB", "1e9", "0x10", "1,5GiB", "1.GiB"),
        *(".5GiB", "1 2GiB", "nan", "inf", "\u0661GiB", "9" * 5000),
    ],
)
def test_what_leaves_the_size_open_is_no_size(text: str) -> None:
    assert parse_size(text) is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("30", 30),
        ("30s", 30),
        ("10m", 600),
        ("2h", 7200),
        ("1.5 h", 5400),
        ("7d", 604_800),
        ("0", 0),
    ],
)
def test_a_duration_has_a_unit_or_is_in_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "10min", "10M", "-1s", "1h30m", "nan", "inf", "1e3"])
def test_what_leaves_the_duration_open_is_no_duration(text: str) -> None:
    assert parse_duration(text) is None


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1 << 20, "1 MiB"), (3 << 29, "1.5 GiB"), (20 << 40, "20 TiB")],
)
def test_sizes_are_shown_in_the_largest_unit_that_leaves_one(nbytes: int, text: str) -> None:
    assert format_size(nbytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (0.5, "500 ms"), (30, "30 s"), (600, "10 m"), (5400, "1.5 h"), (86400, "1 d")],
)
def test_durations_are_shown_in_the_largest_unit_that_leaves_one(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(0, 1 << 50))
def test_a_size_that_is_shown_can_be_set_again(nbytes: int) -> None:
    again = parse_size(format_size(nbytes))
    assert again is not None
    assert abs(again - nbytes) <= nbytes * 0.05 + 1


@given(st.floats(0.001, 1e6))
def test_a_duration_that_is_shown_can_be_set_again(seconds: float) -> None:
    again = parse_duration(format_duration(seconds))
    assert again is not None
    assert abs(again - seconds) <= seconds * 0.01
