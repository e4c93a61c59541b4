"""Why blocks left: a bounded memory of frame ids that were once stored.

Beyond the horizon, the time of the newest record that was forgotten, nothing is known: a block
that is not here may never have been stored or may have left before.

Records are kept as bytes: 65,536 tuples are what the garbage collector stops the world for.
"""

import struct
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


_REASONS = tuple(Reason)
_NUMBERS = {reason: number for number, reason in enumerate(_REASONS)}
_RECORD = struct.Struct("<BdII")


class Ghost(NamedTuple):
    """A block that left: why, when (seconds since the epoch), whose it was, for whom it went."""

    reason: Reason
    when: float
    tenant: int
    made_room_for: int


class Ghosts:
    """The last blocks that left: ``limit`` of them at most, and half as many at least.

    They are kept as two halves, and the older half is forgotten as a whole.  One thread at a time
    (the store's lock).
    """

    def __init__(self, limit: int, *, since: float) -> None:
        self._half = limit // 2
        self._newer: dict[bytes, bytes] = {}
        self._older: dict[bytes, bytes] = {}
        self._newest = self._newest_of_older = since
        self.horizon = since  # 0: from the store's beginning

    def add(self, fids: Sequence[bytes], ghost: Ghost) -> None:
        """Remember why these blocks left."""
        if len(self._newer) + len(fids) > self._half:
            self.horizon = max(self.horizon, self._newest_of_older)
            self._older, self._newer = self._newer, {}
            self._newest_of_older = self._newest
        if len(fids) > self._half:
            self.horizon = ghost.when  # too many at once: the rest is forgotten already
        reason, *rest = ghost
        record = _RECORD.pack(_NUMBERS[reason], *rest)
        self._newer.update(dict.fromkeys(fids[: self._half], record))
        self._newest = ghost.when

    def find(self, fid: bytes) -> Ghost | None:
        """What is remembered of a block."""
        record = self._newer.get(fid) or self._older.get(fid)
        if record is None:
            return None
        reason, when, tenant, made_room_for = _RECORD.unpack(record)
        return Ghost(_REASONS[reason], when, tenant, made_room_for)

    def __len__(self) -> int:
        return len(self._newer) + len(self._older)
