"""A block on its way from a lower tier into host memory: read once however many ask for it."""

import threading
from typing import NamedTuple

from .parcel import Parcel
from .tier import Place


class Source(NamedTuple):
    """Where a fetch reads, and what it expects there."""

    fid: bytes
    generation: int
    place: Place


class Fetch:
    """One read in flight.

    Its parcel's host slot is leased by the read itself and by every hit that waits for it, so a hit
    that gives up leaves the pages to the read until the kernel gives them back.
    """

    __slots__ = ("_done", "is_good", "is_plain", "parcel", "source")

    def __init__(self, parcel: Parcel, source: Source) -> None:
        self.parcel = parcel
        self.source = source
        self.is_good = False
        self.is_plain = False  # the payload begins with the raw base
        self._done = threading.Event()

    def finish(self) -> None:
        """The read has ended, and its outcome is in the books."""
        self._done.set()

    @property
    def is_done(self) -> bool:
        """Whether the read has ended."""
        return self._done.is_set()

    def wait(self, timeout_s: float) -> bool:
        """Wait for the end; False where it does not come in time."""
        return self._done.wait(timeout_s)
