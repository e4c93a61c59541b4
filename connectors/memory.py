"""KV of one batch of sequences in torch memory: one tensor for each group of layers.

A column is one token position of the batch, padding included.  A group's tensor is
``[layer, plane, row, column, head, dim]``: the order of a canonical block, so a block goes in and
out as one strided copy whose runs are whole ``[token, head, dim]`` slabs, and what an attention
layer wants, ``[row, head, column, dim]``, is a view of it.  Columns are appended in place, where a
cache that concatenates copies all its KV for every token.
"""

from collections.abc import Sequence
from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray

from ..kvstore.layout import Group, Layout

TORCH_DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float8_e4m3fn": torch.float8_e4m3fn,
    "float8_e5m2": torch.float8_e5m2,
}


class KVMemory:
    """KV of ``rows`` sequences, room for ``columns`` of it, grown when that is not enough.

    One thread at a time writes; ``bytes_of`` may be used by several for different columns.
    """

    def __init__(
        self, layout: Layout, rows: int, *, columns: int, device: torch.device, shelf: "Shelf"
    ) -> None:
        self.layout = layout
        self.rows = rows
        self.columns = columns
        self.device = device
        self.intact = True  # False once the engine keeps KV elsewhere: what is here has gaps
        self.tensors = [
            shelf.take(_shape(group, rows, columns), TORCH_DTYPES[group.dtype], device)
            for group in layout.groups
        ]

    def reserve(self, columns: int) -> None:
        """Make room for so many columns; what is there stays, in new tensors if need be."""
        if columns <= self.columns:
            return
        self.columns = max(columns, self.columns + self.columns // 2)
        for i, (group, old) in enumerate(zip(self.layout.groups, self.tensors, strict=True)):
            new = _empty(_shape(group, self.rows, self.columns), old.dtype, self.device)
            new[:, :, :, : old.shape[3]] = old
            self.tensors[i] = new

    def clear(self, row: int, columns: int) -> None:
        """Zero a row's first columns: padding is masked out, but 0 times a stray NaN is NaN."""
        for tensor in self.tensors:
            tensor[:, :, row, :columns].zero_()

    def bytes_of(self, group: int) -> NDArray[np.uint8]:
        """A group's memory as bytes, ``[layer, plane, row, column, nbytes]``; CPU only."""
        tensor = self.tensors[group]
        view: NDArray[np.uint8] = tensor.view(torch.uint8).flatten(-2).numpy()
        return view


class Lane:
    """One layer's KV in a ``KVMemory``: ``columns`` of it are filled."""

    def __init__(self, memory: KVMemory, *, group: int, index: int, columns: int) -> None:
        self.memory = memory
        self.columns = columns
        self.group = group
        self._index = index

    def takes(self, keys: torch.Tensor) -> bool:
        """Whether these keys ``[row, head, token, dim]`` are what the layout says they are."""
        group = self.memory.layout.groups[self.group]
        expected = (self.memory.rows, group.heads, keys.shape[2], group.head_dim)
        return (
            keys.shape == expected
            and keys.dtype == TORCH_DTYPES[group.dtype]
            and keys.device == self.memory.device
            and not (keys.requires_grad and torch.is_grad_enabled())
        )

    def append(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Write ``[row, head, token, dim]`` behind what is filled."""
        end = self.columns + keys.shape[2]
        self.memory.reserve(end)
        plane = self._plane
        plane[0, :, self.columns : end] = keys.transpose(1, 2)
        plane[1, :, self.columns : end] = values.transpose(1, 2)
        self.columns = end

    def view(self, first: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values from column ``first`` on, ``[row, head, column, dim]``, not copied."""
        keys, values = self._plane[:, :, first : self.columns].transpose(2, 3)
        return keys, values

    def reorder(self, rows: torch.Tensor) -> None:
        """Give every row the KV of the row that ``rows`` names for it."""
        filled = self._plane[:, :, : self.columns]
        filled.copy_(filled.index_select(1, rows.to(self.memory.device)))

    @property
    def _plane(self) -> torch.Tensor:
        """This layer's part of the memory, ``[plane, row, column, head, dim]``."""
        return self.memory.tensors[self.group][self._index]


class Shelf:
    """Keeps the CPU memory of the last batch for the next one.

    Memory that the kernel has to map again costs up to ten times the copy into it.  At most
    ``nbytes`` are kept, and none that is on loan.  Any thread may call it.
    """

    def __init__(self, nbytes: int = 1 << 30) -> None:
        self._limit = nbytes
        self._kept: list[torch.Tensor] = []
        self._lock = Lock()

    def take(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """A contiguous tensor with undefined content."""
        numel = int(np.prod(shape))
        with self._lock:
            fits = [t for t in self._kept if t.dtype == dtype and t.numel() >= numel]
            best = min(fits, key=torch.Tensor.numel) if device.type == "cpu" and fits else None
            self._kept = [t for t in self._kept if t is not best]
        if best is None:
            return _empty(shape, dtype, device)
        return best[:numel].view(*shape)

    def give(self, memory: KVMemory) -> None:
        """Take a batch's memory back; the caller holds no view of it that it still reads."""
        if memory.device.type != "cpu":
            return  # torch keeps a device's memory itself
        flat = [_whole(tensor) for tensor in memory.tensors]
        if sum(t.nbytes for t in flat) <= self._limit:
            with self._lock:
                self._kept = flat

    def empty(self) -> None:
        """Give everything back to the system."""
        with self._lock:
            self._kept = []


def _shape(group: Group, rows: int, columns: int) -> tuple[int, ...]:
    return len(group.layers), group.planes, rows, columns, group.heads, group.head_dim


def _empty(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """A contiguous tensor with undefined content, in huge pages where there are any.

    For memory of its size numpy asks the kernel for them, and mapping takes a seventh of the time.
    """
    # What inference mode allocates could never be written outside of it.
    with torch.inference_mode(mode=False):
        if device.type != "cpu":
            return torch.empty(*shape, dtype=dtype, device=device)
        flat = np.empty(int(np.prod(shape)) * dtype.itemsize, np.uint8)
        return torch.from_numpy(flat).view(dtype).view(*shape)


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of the allocation that a tensor is the start of, flat."""
    numel = tensor.untyped_storage().nbytes() // tensor.element_size()
    return torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage(), 0, (numel,), (1,))
