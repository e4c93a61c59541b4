"""What ``match`` answers: which of a prompt's blocks are stored, and every length they restore.

A full-attention group needs every block before the restored length, a window group only those that
its window reaches; a length is restorable when every group has what it needs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from .layout import Layout, Part


class State(IntEnum):
    """What a block's frame is in the store."""

    MISS = 0
    PENDING = 1
    READY = 2


@dataclass(frozen=True, slots=True)
class Plan:
    """A prompt's blocks in one space at one moment; it leases nothing.

    ``keys`` are the keys of the prompt's full blocks; ``states`` is uint8 ``[part, block]`` of
    ``State``; ``lengths`` are the restorable lengths in tokens, ascending; ``fidelity`` is the
    weakest of the blocks that the longest one needs.
    """

    keys: Sequence[bytes]
    parts: tuple[Part, ...]
    states: NDArray[np.uint8]
    lengths: tuple[int, ...]
    fidelity: int
    asked_tokens: int

    @property
    def tokens(self) -> int:
        """The longest restorable length, 0 where there is none."""
        return self.lengths[-1] if self.lengths else 0


def restorable(layout: Layout, parts: Sequence[Part], ready: NDArray[np.bool_]) -> list[int]:
    """Restorable lengths in blocks, ascending, from ``ready`` ``[part, block]``."""
    count = ready.shape[1]
    if ready.all():
        return list(range(1, count + 1))
    ends = np.arange(1, count + 1)
    possible = np.ones(count, np.bool_)
    for part, row in zip(parts, ready, strict=True):
        last_gap = np.maximum.accumulate(np.where(row, 0, ends))  # blocks up to the latest gap
        reach = layout.window_blocks(part.group)
        first_needed = np.maximum(ends - reach, 0) if reach else 0
        possible &= last_gap <= first_needed
    return (np.flatnonzero(possible) + 1).tolist()


def needed(layout: Layout, part: Part, blocks: int) -> range:
    """The blocks of a part that restoring ``blocks`` blocks needs."""
    reach = layout.window_blocks(part.group)
    return range(max(0, blocks - reach) if reach else 0, blocks)
