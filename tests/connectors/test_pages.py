"""Blocks in and out of torch memory, bit for bit, in every dtype."""

import sys

import numpy as np
import pytest
import torch

from kvstrata.connectors.memory import TORCH_DTYPES, KVMemory, Shelf
from kvstrata.connectors.pages import MemoryPages
from kvstrata.kvstore.layout import Group, Layout, Part
from kvstrata.kvstore.pages import Bytes

BLOCK, LAYERS, HEADS, DIM = 4, 3, 2, 8
CPU = torch.device("cpu")
devices = pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
            ],
        ),
    ],
)


def layout(dtype: str) -> Layout:
    """Two groups that differ in shape."""
    return Layout(
        (
            Group((0, 2, 3), HEADS, DIM, dtype),
            Group((1,), 1, 16, dtype, kind="window", window=5),
        ),
        block_tokens=BLOCK,
    )


def memory(dtype: str, device: str = "cpu", *, rows: int = 2, columns: int = 30) -> KVMemory:
    """Memory full of zeros."""
    made = KVMemory(
        layout(dtype), rows, columns=columns, device=torch.device(device), shelf=Shelf()
    )
    for row in range(rows):
        made.clear(row, columns)
    return made


def blocks(into: KVMemory, group: int, count: int, *, seed: int = 0) -> list[Bytes]:
    """Random bytes of so many blocks, of which nobody may write to."""
    rng = np.random.default_rng(seed)
    size = into.layout.frame_bytes(group, BLOCK)
    made = [rng.integers(0, 256, size, np.uint8) for _ in range(count)]
    for block in made:
        block.flags.writeable = False
    return made


def gathered(pages: MemoryPages, into: KVMemory, group: int, numbers: list[int]) -> list[Bytes]:
    """These blocks as the store would get them."""
    targets = [np.zeros(into.layout.frame_bytes(group, BLOCK), np.uint8) for _ in numbers]
    pages.gather(Part(group, 0), numbers, targets)
    return targets


@devices
@pytest.mark.parametrize("dtype", TORCH_DTYPES)
@pytest.mark.parametrize("group", [0, 1])
def test_what_goes_in_comes_out(dtype: str, group: int, device: str) -> None:
    into = memory(dtype, device)
    pages = MemoryPages(into, 1, first=3)
    data = blocks(into, group, 4)
    layers = len(into.layout.groups[group].layers)
    pages.scatter(Part(group, 0), [2, 0, 5, 1], data, (0, layers))
    for mine, back in zip(data, gathered(pages, into, group, [2, 0, 5, 1]), strict=True):
        assert np.array_equal(mine, back)


@devices
def test_a_block_is_where_the_engine_looks_for_it(device: str) -> None:
    into = memory("float32", device)
    block = np.random.default_rng(0).standard_normal((LAYERS, 2, BLOCK, HEADS, DIM), np.float32)
    pages = MemoryPages(into, 1, first=3)
    pages.scatter(Part(0, 0), [2], [block.reshape(-1).view(np.uint8)], (0, LAYERS))
    columns = into.tensors[0][:, :, 1, 3 + 2 * BLOCK : 3 + 3 * BLOCK].cpu().numpy()
    assert np.array_equal(columns, block)
    assert torch.count_nonzero(into.tensors[0]) == np.count_nonzero(block)


@devices
def test_a_range_of_layers_leaves_the_others_alone(device: str) -> None:
    into = memory("float16", device)
    pages = MemoryPages(into, 0)
    (old,), (new,) = blocks(into, 0, 1), blocks(into, 0, 1, seed=1)
    pages.scatter(Part(0, 0), [0], [old], (0, LAYERS))
    pages.scatter(Part(0, 0), [0], [new], (1, 2))
    third = len(old) // LAYERS
    (back,) = gathered(pages, into, 0, [0])
    assert np.array_equal(back[:third], old[:third])
    assert np.array_equal(back[third : 2 * third], new[third : 2 * third])
    assert np.array_equal(back[2 * third :], old[2 * third :])


@devices
def test_beams_get_a_block_each_and_others_nothing(device: str) -> None:
    into = memory("bfloat16", device, rows=5)
    MemoryPages(into, 1, copies=3).scatter(Part(0, 0), [1], blocks(into, 0, 1), (0, LAYERS))
    tensor = into.tensors[0].view(torch.uint8)
    assert torch.equal(tensor[:, :, 1], tensor[:, :, 2])
    assert torch.equal(tensor[:, :, 1], tensor[:, :, 3])
    assert tensor[:, :, 1].any()
    assert not tensor[:, :, 0].any()
    assert not tensor[:, :, 4].any()


@devices
def test_a_block_may_be_restored_in_part(device: str) -> None:
    into = memory("float32", device)
    block = np.ones((LAYERS, 2, BLOCK, HEADS, DIM), np.float32).reshape(-1).view(np.uint8)
    pages = MemoryPages(into, 0, first=2, end=2 + BLOCK + 3)
    pages.scatter(Part(0, 0), [0, 1, 2], [block, block, block], (0, LAYERS))
    (filled,) = into.tensors[0][0, 0, 0, :, 0, 0].nonzero(as_tuple=True)
    assert filled.tolist() == list(range(2, 2 + BLOCK + 3))


@pytest.mark.parametrize("verb", ["gather", "scatter"])
def test_a_block_is_one_operation_however_many_layers_it_has(verb: str) -> None:
    def operations(layers: int) -> int:
        deep = Layout((Group(tuple(range(layers)), HEADS, DIM, "float32"),), block_tokens=BLOCK)
        pages = MemoryPages(KVMemory(deep, 1, columns=8, device=CPU, shelf=Shelf()), 0)
        data = [np.zeros(deep.frame_bytes(0, BLOCK), np.uint8)]
        seen: list[str] = []
        sys.setprofile(lambda _frame, event, _of: seen.append(event))
        try:
            if verb == "gather":
                pages.gather(Part(0, 0), [1], data)
            else:
                pages.scatter(Part(0, 0), [1], data, (0, layers))
        finally:
            sys.setprofile(None)
        return sum("call" in event for event in seen)

    assert operations(64) == operations(2)


def test_memory_grows_and_keeps_what_it_has() -> None:
    into = memory("float32", columns=8)
    pages = MemoryPages(into, 0)
    (block,) = blocks(into, 0, 1)
    pages.scatter(Part(0, 0), [1], [block], (0, LAYERS))
    into.reserve(9)
    assert into.columns >= 9
    assert np.array_equal(gathered(pages, into, 0, [1])[0], block)


def test_the_next_batch_gets_the_last_ones_memory() -> None:
    shelf = Shelf()
    first = KVMemory(layout("float32"), 2, columns=30, device=CPU, shelf=shelf)
    address = first.tensors[0].data_ptr()
    shelf.give(first)
    second = KVMemory(layout("float32"), 1, columns=50, device=CPU, shelf=shelf)
    third = KVMemory(layout("float32"), 1, columns=50, device=CPU, shelf=shelf)
    assert second.tensors[0].data_ptr() == address
    assert third.tensors[0].data_ptr() != address
    assert second.tensors[0].is_contiguous()


def test_a_shelf_keeps_no_more_than_it_may() -> None:
    shelf = Shelf(nbytes=1000)
    first = KVMemory(layout("float32"), 2, columns=30, device=CPU, shelf=shelf)
    kept = first.tensors[0]
    shelf.give(first)
    second = KVMemory(layout("float32"), 2, columns=30, device=CPU, shelf=shelf)
    assert second.tensors[0].data_ptr() != kept.data_ptr()


def test_memory_made_in_inference_mode_serves_outside_of_it() -> None:
    with torch.inference_mode():
        into = KVMemory(layout("float32"), 1, columns=8, device=CPU, shelf=Shelf())
    into.clear(0, 8)
    assert not into.tensors[0].any()
