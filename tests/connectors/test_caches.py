"""Our cache layers are transformers' own, as far as anybody can see."""

from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from kvstrata.connectors.caches import FullLayer, KVCache, WindowLayer
from kvstrata.connectors.memory import KVMemory, Shelf
from kvstrata.kvstore.layout import Group, Layout

ROWS, HEADS, DIM, WINDOW = 2, 2, 4, 5
LAYOUT = Layout(
    (
        Group((0,), HEADS, DIM, "float32"),
        Group((1,), HEADS, DIM, "float32", kind="window", window=WINDOW),
    ),
    block_tokens=4,
)
CPU = torch.device("cpu")

Step = Callable[[KVCache | DynamicCache], object]


def ours(columns: int = 8) -> KVCache:
    """An empty cache of our layers, with little room."""
    return KVCache(KVMemory(LAYOUT, ROWS, columns=columns, device=CPU, shelf=Shelf()), 0)


def theirs() -> DynamicCache:
    """The same as transformers builds it."""
    cache = DynamicCache()
    full = DynamicLayer()  # type: ignore[no-untyped-call]
    cache.layers = [full, DynamicSlidingWindowLayer(WINDOW)]
    cache.layer_class_to_replicate = None
    return cache


def kv(tokens: int, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Keys and values, ``[plane, row, head, token, dim]``."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, ROWS, HEADS, tokens, DIM, generator=generator).to(dtype)


def fed(cache: KVCache | DynamicCache, new: torch.Tensor) -> list[torch.Tensor]:
    """What every layer attends to when it gets these."""
    rows = shown(cache, 0).shape[0] if cache.get_seq_length() else ROWS
    keys, values = new[:, :1].expand(2, rows, HEADS, -1, DIM) if rows != ROWS else new
    return [tensor for layer in range(2) for tensor in cache.update(keys, values, layer)]


def layer(cache: KVCache | DynamicCache, number: int) -> DynamicLayer:
    """One layer, as what it is."""
    found = cache.layers[number]
    assert isinstance(found, DynamicLayer)
    return found


def shown(cache: KVCache | DynamicCache, number: int) -> torch.Tensor:
    """The keys that a layer shows."""
    keys = layer(cache, number).keys
    assert keys is not None
    return keys


def assert_alike(mine: KVCache, other: DynamicCache) -> None:
    """Both caches show the same, and say the same of themselves."""
    for number in range(2):
        a, b = layer(mine, number), layer(other, number)
        assert a.get_seq_length() == b.get_seq_length()
        assert a.get_mask_sizes(3) == b.get_mask_sizes(3)
        if b.get_seq_length():
            assert torch.equal(shown(mine, number), shown(other, number))
            assert torch.equal(a.values, b.values)  # type: ignore[arg-type]


feed = st.integers(1, 9).map(lambda n: ("feed", n))
reorder = st.lists(st.integers(0, ROWS - 1), min_size=ROWS, max_size=ROWS).map(
    lambda rows: ("reorder", rows)
)
repeat = st.integers(2, 3).map(lambda n: ("repeat", n))
select = st.just(("select", [1]))
reset = st.just(("reset", None))
steps = st.lists(st.one_of(feed, feed, feed, reorder, repeat, select, reset), max_size=8)


@given(steps=steps)
def test_whatever_is_done_to_them_they_show_the_same(steps: list[tuple[str, object]]) -> None:
    mine, other = ours(), theirs()
    for number, (name, value) in enumerate(steps):
        rows = shown(other, 0).shape[0] if other.get_seq_length() else ROWS
        if name == "feed":
            assert isinstance(value, int)
            new = kv(value, seed=number)
            for a, b in zip(fed(mine, new), fed(other, new), strict=True):
                assert torch.equal(a, b)
        elif name == "reset":
            mine.reset()  # type: ignore[no-untyped-call]
            other.reset()  # type: ignore[no-untyped-call]
        elif other.get_seq_length() and rows == ROWS:
            apply(mine, name, value)
            apply(other, name, value)
        assert_alike(mine, other)


def apply(cache: KVCache | DynamicCache, name: str, value: object) -> None:
    """One of the operations on rows."""
    if name == "reorder":
        assert isinstance(value, Sequence)
        cache.reorder_cache(torch.tensor(value))  # type: ignore[arg-type]
    elif name == "repeat":
        assert isinstance(value, int)
        cache.batch_repeat_interleave(value)
    else:
        cache.batch_select_indices(torch.tensor(value))


@pytest.mark.parametrize("remove", [1, 3, 6])
def test_the_end_can_be_taken_back(remove: int) -> None:
    mine, other = ours(), theirs()
    other.activate_past_recording()  # type: ignore[no-untyped-call]
    for seed in range(4):
        new = kv(7, seed=seed)
        fed(mine, new)
        fed(other, new)
        other.crop(-remove)
        mine.crop(-remove)
        assert_alike(mine, other)
    assert mine.memory.intact


def test_what_a_window_no_longer_shows_is_kept() -> None:
    cache = ours()
    new = kv(20)
    fed(cache, new)
    assert shown(cache, 1).shape[2] == WINDOW - 1
    assert torch.equal(cache.memory.tensors[1][0, 0, :, :20].transpose(1, 2), new[0])


def test_what_was_restored_of_a_window_cannot_be_taken_back() -> None:
    memory = KVMemory(LAYOUT, ROWS, columns=40, device=CPU, shelf=Shelf())
    cache = KVCache(memory, 20)
    fed(cache, kv(3))
    cache.crop(-3)
    with pytest.raises(RuntimeError, match="past"):
        cache.crop(-1)


def test_kv_of_another_dtype_goes_to_transformers_own_layers() -> None:
    cache = ours()
    half = kv(3, dtype=torch.float16)
    attended = fed(cache, half)
    assert [tensor.dtype for tensor in attended] == [torch.float16] * 4
    assert torch.equal(attended[0], half[0])
    assert not cache.memory.intact


def test_a_gradient_is_not_cut_off() -> None:
    cache = ours()
    new = kv(3).requires_grad_()
    attended = cache.update(new[0], new[1], 0)
    assert attended[0].requires_grad
    assert not cache.memory.intact


def test_columns_are_written_in_place() -> None:
    cache = ours(columns=64)
    fed(cache, kv(20))
    address = shown(cache, 0).data_ptr()
    for _ in range(10):
        fed(cache, kv(1))
    assert shown(cache, 0).data_ptr() == address


def test_layers_are_what_transformers_asks_for() -> None:
    cache = ours()
    assert isinstance(cache, DynamicCache)
    assert isinstance(cache.layers[0], FullLayer | DynamicLayer)
    assert isinstance(cache.layers[1], WindowLayer | DynamicSlidingWindowLayer)
    assert cache.is_sliding == [False, True]
    assert cache.is_croppable
    assert not cache.is_compileable
