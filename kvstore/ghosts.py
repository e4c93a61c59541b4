"""Why blocks left: a bounded memory of frame ids that were once stored.

Beyond the horizon, the time of the oldest record that was pushed out, nothing is known: a block
that is not here may never have been stored or may have left before.
"""

from collections import deque
from collections.abc import Sequence
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
        self._left: deque[tuple[Sequence[bytes], Ghost]] = deque()  # oldest first
        self._count = 0  # frame ids in it, those that left again since among them
        self._ghosts: dict[bytes, Ghost] = {}
        self.horizon = since  # 0: from the store's beginning

    def add(self, fids: Sequence[bytes], ghost: Ghost) -> None:
        """Remember why these blocks left."""
        self._left.append((fids, ghost))
        self._count += len(fids)
        self._ghosts.update(dict.fromkeys(fids, ghost))
        while self._count > self._limit:
            self._push_out(*self._left.popleft())

    def find(self, fid: bytes) -> Ghost | None:
        """What is remembered of a block."""
        return self._ghosts.get(fid)

    def __len__(self) -> int:
        return len(self._ghosts)

    def _push_out(self, fids: Sequence[bytes], ghost: Ghost) -> None:
        self._count -= len(fids)
        for fid in fids:
            if self._ghosts.get(fid) is ghost:
                del self._ghosts[fid]
                self.horizon = max(self.horizon, ghost.when)
