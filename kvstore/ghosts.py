"""Why blocks left: a bounded memory of frame ids that were once stored.

Beyond the horizon, the time of the oldest record that was pushed out, nothing is known: a block
that is not here may never have been stored or may have left before.
"""

from collections import deque
from enum import Enum
from typing import NamedTuple


class Reason(Enum):
    """Why a block is gone."""

    EVICTED = "evicted"
    EXPIRED = "expired"
    DROPPED = "dropped"
    QUARANTINED = "quarantined"
    LOST = "lost"


class Ghost(NamedTuple):
    """A block that left: why, when (seconds since the epoch), whose it was, for whom it went."""

    reason: Reason
    when: float
    tenant: int
    made_room_for: int


class Ghosts:
    """The last ``limit`` blocks that left; one thread at a time (the store's lock)."""

    def __init__(self, limit: int, *, since: float) -> None:
        self._limit = limit
        self._order: deque[bytes] = deque()
        self._ghosts: dict[bytes, Ghost] = {}
        self.horizon = since  # 0: from the store's beginning

    def add(self, fid: bytes, ghost: Ghost) -> None:
        """Remember why a block left."""
        if fid not in self._ghosts:
            self._order.append(fid)
        self._ghosts[fid] = ghost
        while len(self._order) > self._limit:
            oldest = self._ghosts.pop(self._order.popleft(), None)
            if oldest is not None:
                self.horizon = max(self.horizon, oldest.when)

    def find(self, fid: bytes) -> Ghost | None:
        """What is remembered of a block."""
        return self._ghosts.get(fid)

    def __len__(self) -> int:
        return len(self._ghosts)
