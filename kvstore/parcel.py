"""Blocks on their way into host memory."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .index import Rows
from .slab import Slots


class Parcel(NamedTuple):
    """One that is read: its row and generation, and its host slot, leased until it has arrived."""

    row: int
    generation: int
    slot: int
    nbytes: int


class Parcels(NamedTuple):
    """Those of one save, side by side: root first, all new, or all better copies of what is here.

    Nobody but the save knows their slots until they have arrived.
    """

    rows: Rows
    generations: NDArray[np.uint64]  # that they will have
    expected: NDArray[np.uint64]  # that their rows must have until then; the same where new
    slots: Slots
    nbytes: NDArray[np.uint32]

    @property
    def are_better(self) -> bool:
        """Whether they are to replace worse copies."""
        return self.expected is not self.generations

    def only(self, which: NDArray[np.bool_]) -> "Parcels":
        """Some of them."""
        rows, generations, expected, slots, nbytes = self
        kept = generations[which]
        still = expected[which] if self.are_better else kept
        return Parcels(rows[which], kept, still, slots[which], nbytes[which])
