"""What the rows of ``kvstrata bench store`` stand on: how much they do, models, prompts and pages.

The model is Llama-3-8B's shape in bf16, 128 KiB a token, cut into blocks of the wanted size.
"""

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..kvstore.identity import Identity
from ..kvstore.layout import Group, Layout, Part
from ..kvstore.pages import Bytes
from ..kvstore.settings import Settings

MIB = 1 << 20
PART = Part(0, 0)

_MODEL = Group(tuple(range(32)), heads=8, head_dim=128, dtype="bfloat16")
_SLACK = 2 * MIB  # index rows, header slots and superblock of a small store
_ROW_BYTES = 1024  # more than the index asks for each block that fits a disk


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is done; the figures mean the same at every scale, and sway more at a small one."""

    rounds: int  # of every comparison
    blocks: tuple[int, ...]  # sizes that RAM and disk are measured with, bytes
    batch: int  # blocks saved or loaded by one call
    span: int  # bytes that copies walk over, beyond the processor's caches
    disk: int  # bytes on disk for the comparisons of I/O
    prompt: int  # tokens of the prompt that is matched
    entries: int  # blocks that the index holds
    churn: int  # blocks that come and go while pauses are measured
    burst: int  # bytes of the RAM tier that a burst runs into


FULL = Scale(
    rounds=21,
    blocks=(2 * MIB, 32 * MIB),
    batch=16,
    span=512 * MIB,
    disk=2048 * MIB,
    prompt=32_768,
    entries=1_000_000,
    churn=450_000,
    burst=512 * MIB,
)
QUICK = Scale(
    rounds=7,
    blocks=(2 * MIB, 32 * MIB),
    batch=16,
    span=512 * MIB,
    disk=768 * MIB,
    prompt=32_768,
    entries=50_000,
    churn=10_000,
    burst=128 * MIB,
)


class NoPages:
    """An engine's pages that copy nothing: what is left is bookkeeping."""

    def gather(self, part: Part, blocks: Sequence[int], into: Sequence[Bytes]) -> None:
        """Leave the store's memory as it is."""

    def scatter(
        self, part: Part, blocks: Sequence[int], data: Sequence[Bytes], layers: tuple[int, int]
    ) -> None:
        """Copy nothing."""


def layout_of(block_bytes: int) -> Layout:
    """The model, cut into blocks of this many bytes: a multiple of 128 KiB."""
    return Layout((_MODEL,), block_tokens=block_bytes // _MODEL.token_bytes)


def identity_of(layout: Layout) -> Identity:
    """Somebody to whom blocks of this layout belong."""
    return Identity(weights="5a" * 32, layout=layout, config="bench", producer="bench")


def prompt_of(number: int, tokens: int) -> NDArray[np.uint32]:
    """A prompt that shares no block with a prompt of another number."""
    return np.arange(number << 16, (number << 16) + tokens, dtype=np.uint32)


def settings_of(directory: Path, payload: int, *, disk: int = 0, writers: int = 1) -> Settings:
    """A store with room for so many bytes of blocks of 128 KiB or more in memory and on disk."""
    index = _ROW_BYTES * (disk >> 17)
    return Settings(
        dir=directory,
        memory=_with_headers(payload) + index,
        disk=_with_headers(disk) if disk else 0,
        writers=writers,
        log_level="ERROR",
    )


def size_of(nbytes: int) -> str:
    """A block's size as people say it."""
    return f"{nbytes >> 10} KiB" if nbytes % MIB else f"{nbytes // MIB} MiB"


def touched(nbytes: int, *, seed: int = 0) -> Bytes:
    """Aligned memory that the kernel has given already, filled with noise."""
    data: Bytes = np.frombuffer(mmap.mmap(-1, nbytes), np.uint8)
    words = data[: nbytes // 8 * 8].view(np.uint64)
    words[:] = np.arange(seed, seed + len(words), dtype=np.uint64)
    words *= np.uint64(0x9E3779B97F4A7C15)
    return data


def _with_headers(payload: int) -> int:
    return payload + payload // 16 + _SLACK
