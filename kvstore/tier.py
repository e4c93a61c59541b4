"""A place below host memory that holds frames: the protocol of disks, and of remote stores.

A tier moves bytes; it decides nothing.  The store reserves a place under its lock, the mover's
threads read and write without it, and the index remembers the place.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from .frame import Header
from .payload import Sealed

Bytes = NDArray[np.uint8]


class Place(NamedTuple):
    """Where a frame is on a tier: which of its media, and which header slot there."""

    stripe: int
    slot: int


class Tier(Protocol):
    """Frames on a medium.

    ``take`` and ``give`` are bookkeeping under the store's lock; the others are I/O on any thread.
    """

    def take(self, nbytes: int) -> Place | None:
        """Reserve a place; None where there is no room or the medium is switched off."""
        ...

    def give(self, place: Place) -> None:
        """Take a place back, at once or when its last I/O has ended."""
        ...

    def write(self, frames: Sequence[tuple[Place, Sealed]]) -> list[bytes]:
        """Write frames; for each the record by which it is found again, empty where that failed."""
        ...

    def read(self, place: Place, fid: bytes, generation: int, into: Sequence[Bytes]) -> Header:
        """Read and verify a frame.

        Raises TierError where the medium fails and FrameError where it gives back something else
        than this frame of this generation.
        """
        ...

    def sync(self) -> None:
        """Return when all that was written is durable; raises TierError."""
        ...
