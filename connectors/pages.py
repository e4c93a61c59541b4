"""``Pages`` over torch memory: blocks of one sequence in and out of a ``KVMemory``.

On the CPU a block is one ``numpy.copyto`` of bytes: it knows every dtype, runs at the speed of
memory on one thread, and starts no OpenMP threads, which on a busy machine spin and make the copy
ten times slower.  Elsewhere a block goes through a pinned buffer of its own, so that the copy to
the device overlaps with the next block's.
"""

from collections.abc import Sequence

import numpy as np
import torch

from ..kvstore.layout import Part
from ..kvstore.pages import Bytes
from .memory import KVMemory


class MemoryPages:
    """One sequence's blocks: block 0 starts at column ``first`` of row ``row``.

    ``copies`` rows from ``row`` on are written alike (beams of one prompt); the first is read.
    ``end`` is the column at which scattering stops: a block may be restored in part.
    """

    def __init__(
        self, memory: KVMemory, row: int, *, first: int = 0, copies: int = 1, end: int | None = None
    ) -> None:
        self._memory = memory
        self._rows = slice(row, row + copies)
        self._first = first
        self._end = memory.columns if end is None else end
        self._block_tokens = memory.layout.block_tokens

    def gather(self, part: Part, blocks: Sequence[int], into: Sequence[Bytes]) -> None:
        """Copy blocks out, each ``[layer, plane, token, head, dim]``."""
        for block, target in zip(blocks, into, strict=True):
            start = self._first + block * self._block_tokens
            self._read(part.group, slice(start, start + self._block_tokens), target)

    def scatter(
        self, part: Part, blocks: Sequence[int], data: Sequence[Bytes], layers: tuple[int, int]
    ) -> None:
        """Copy blocks in, the layers of the half-open range of each."""
        for block, source in zip(blocks, data, strict=True):
            start = self._first + block * self._block_tokens
            end = min(start + self._block_tokens, self._end)
            if end > start:
                self._write(part.group, slice(start, end), source, slice(*layers))

    def _read(self, group: int, columns: slice, target: Bytes) -> None:
        if self._memory.device.type == "cpu":
            source = self._memory.bytes_of(group)[:, :, self._rows.start, columns]
            np.copyto(target.reshape(source.shape), source)
        else:
            tensor = self._memory.tensors[group][:, :, self._rows.start, columns]
            flat = tensor.contiguous().view(torch.uint8).flatten().cpu()
            np.copyto(target, flat.numpy())

    def _write(self, group: int, columns: slice, source: Bytes, layers: slice) -> None:
        if self._memory.device.type == "cpu":
            target = self._memory.bytes_of(group)[layers, :, self._rows, columns]
            shape = (-1, target.shape[1], 1, self._block_tokens, target.shape[4])
            np.copyto(target, source.reshape(shape)[layers, :, :, : target.shape[3]])
        else:
            tensor = self._memory.tensors[group][layers, :, self._rows, columns]
            staged = torch.empty(source.size, dtype=torch.uint8, pin_memory=_pins(tensor.device))
            np.copyto(staged.numpy(), source)
            shape = (-1, tensor.shape[1], 1, self._block_tokens, *tensor.shape[4:])
            block = staged.to(tensor.device, non_blocking=True).view(tensor.dtype).view(shape)
            tensor.copy_(block[layers, :, :, : tensor.shape[3]])


def _pins(device: torch.device) -> bool:
    return device.type == "cuda"
