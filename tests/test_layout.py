"""Layouts: what may be stored, how it is cut, and that every field tells two of them apart."""

from dataclasses import fields, replace
from hashlib import sha256

import numpy as np
import pytest

from kvstrata.kvstore.errors import LayoutError
from kvstrata.kvstore.layout import Group, Layout, default_block_tokens, with_shards

GROUP = Group(layers=(0, 1, 2), heads=8, head_dim=128, dtype="bfloat16")
LAYOUT = Layout((GROUP,), block_tokens=64)

OTHER_GROUP = {
    "layers": (0, 1, 3),
    "heads": 4,
    "head_dim": 64,
    "dtype": "float16",
    "kind": "window",
    "planes": 1,
    "rope": "default theta=10000.0",
}
OTHER_LAYOUT = {"groups": (GROUP, GROUP), "block_tokens": 128, "shards": 2}


@pytest.mark.parametrize("field", sorted(OTHER_GROUP))
def test_every_field_of_a_group_changes_the_fingerprint(field: str) -> None:
    window = {"window": 512} if field == "kind" else {}
    other = replace(GROUP, **{field: OTHER_GROUP[field]}, **window)  # type: ignore[arg-type]
    assert replace(LAYOUT, groups=(other,)).fingerprint() != LAYOUT.fingerprint()


def test_the_size_of_a_window_changes_the_fingerprint() -> None:
    layouts = [
        replace(LAYOUT, groups=(replace(GROUP, kind="window", window=window),))
        for window in (512, 1024)
    ]
    assert layouts[0].fingerprint() != layouts[1].fingerprint()


@pytest.mark.parametrize("field", sorted(OTHER_LAYOUT))
def test_every_field_of_a_layout_changes_the_fingerprint(field: str) -> None:
    other = replace(LAYOUT, **{field: OTHER_LAYOUT[field]})  # type: ignore[arg-type]
    assert other.fingerprint() != LAYOUT.fingerprint()


def test_no_field_of_group_or_layout_is_left_untested() -> None:
    assert {f.name for f in fields(Group)} == {*OTHER_GROUP, "window"}
    assert {f.name for f in fields(Layout)} == set(OTHER_LAYOUT)


def test_equal_layouts_have_equal_fingerprints() -> None:
    assert LAYOUT.fingerprint() == Layout((replace(GROUP),), block_tokens=64).fingerprint()


def test_a_fingerprint_stays_what_it_was() -> None:
    """A changed fingerprint would make everything that is stored unreachable."""
    written = (
        "Layout(groups=(Group(layers=(0, 1, 2), heads=8, head_dim=128, dtype='bfloat16', "
        "kind='full', window=0, planes=2, rope='none'),), block_tokens=64, shards=1)"
    )
    assert LAYOUT.fingerprint() == sha256(written.encode()).hexdigest()


@pytest.mark.parametrize(
    "wrong",
    [
        {"layers": ()},
        {"layers": (1, 0)},
        {"layers": (0, 0)},
        {"layers": (-1, 0)},
        {"layers": [0, 1]},
        {"layers": (0, True)},
        {"layers": tuple(range(65_536))},
        {"heads": 0},
        {"heads": np.int64(8)},
        {"heads": 65_536},
        {"head_dim": 0},
        {"planes": 0},
        {"planes": 256},
        {"dtype": "int4"},
        {"kind": "state"},
        {"kind": "window"},
        {"window": 16},
        {"window": -1, "kind": "window"},
    ],
)
def test_a_group_that_cannot_be_stored_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(LayoutError):
        replace(GROUP, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong",
    [
        {"groups": ()},
        {"groups": [GROUP]},
        {"groups": (GROUP,) * 256},
        {"shards": 0},
        {"shards": 256},
        {"shards": 3},
        {"shards": True},
        {"block_tokens": 48},
        {"block_tokens": -16},
        {"block_tokens": 64.0},
        {"block_tokens": 1 << 32},
    ],
)
def test_a_layout_that_cannot_be_stored_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(LayoutError):
        replace(LAYOUT, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("rope", ["dynamic theta=10000.0", "longrope"])
def test_rope_that_depends_on_the_total_length_is_refused_with_the_reason(rope: str) -> None:
    with pytest.raises(LayoutError, match="total length"):
        replace(GROUP, rope=rope)


def test_a_default_block_has_one_to_two_mib() -> None:
    for token_bytes in (1, 23_040, 131_072, (1 << 20) - 1, 1 << 20):
        assert 1 << 20 <= default_block_tokens(token_bytes) * token_bytes <= 2 << 20
    assert default_block_tokens(3 << 20) == 1
    assert default_block_tokens(1 << 20, at_least=16) == 16


def test_a_block_is_cut_into_equal_shards() -> None:
    layout = with_shards(LAYOUT, 4)
    assert layout.group_shards(0) == 4
    assert layout.frame_shape(0, 64) == (3, 2, 64, 2, 128)
    assert layout.frame_bytes(0, 64) * 4 == layout.token_bytes * 64
    assert layout.frame_bytes(0, 64) == np.prod(layout.frame_shape(0, 64)) * 2


def test_replicated_heads_are_stored_once() -> None:
    layout = Layout((replace(GROUP, heads=2),), block_tokens=64, shards=8)
    assert layout.group_shards(0) == 2


def test_a_window_reaches_back_over_the_blocks_that_the_next_token_attends_to() -> None:
    for window, blocks in ((1, 1), (2, 1), (64, 1), (65, 1), (66, 2), (129, 2), (130, 3)):
        group = replace(GROUP, kind="window", window=window)
        assert replace(LAYOUT, groups=(group,)).window_blocks(0) == blocks
    assert LAYOUT.window_blocks(0) == 0
