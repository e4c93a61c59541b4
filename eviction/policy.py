"""Who leaves next: the protocol that every eviction policy implements.

A policy knows no bytes and does no I/O.  It is told what is resident on which tier and answers
with victims.  Blocks are named by ``block``, a small integer that stands for the same block while
it is resident anywhere and is used again afterwards; ``key`` is what remembers a block that left.

One thread at a time calls a policy: the store does, under its lock.
"""

from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from typing import NamedTuple, Protocol, overload

import numpy as np
from numpy.typing import NDArray

ROOT = -1
"""The parent of a block that has none."""


class Action(Enum):
    """What the store is to do with a victim."""

    DROP = "drop"  # it leaves the tier; the store still lets one that is dirty go down first
    DEMOTE = "demote"  # it leaves only if the next tier has it or takes it
    SHRINK = "shrink"  # it stays, in a smaller encoding


class Record(NamedTuple):
    """What a policy may weigh when a block becomes resident on a tier."""

    block: int
    key: bytes
    parent: int  # ROOT, or a block resident on some tier
    nbytes: int
    tokens: int
    group: int = 0
    tenant: int = 0
    fidelity: int = 255
    expiry: float = 0.0  # seconds since the epoch, 0 for never


class Records(Sequence[Record]):
    """Records that are made when they are asked for: a store may start with a million of them.

    A policy that weighs nothing but parents takes the columns, int32 ``[n]``, and asks for none.
    """

    def __init__(
        self,
        blocks: NDArray[np.int32],
        parents: NDArray[np.int32],
        record: Callable[[int], Record],
    ) -> None:
        self.blocks = blocks
        self.parents = parents
        self._record = record  # of a block

    def __len__(self) -> int:
        return len(self.blocks)

    @overload
    def __getitem__(self, index: int) -> Record: ...

    @overload
    def __getitem__(self, index: slice) -> "Records": ...

    def __getitem__(self, index: int | slice) -> "Record | Records":
        if isinstance(index, slice):
            return Records(self.blocks[index], self.parents[index], self._record)
        return self._record(int(self.blocks[index]))


class Victim(NamedTuple):
    """A block that should leave a tier, and how."""

    block: int
    action: Action


class Hint(NamedTuple):
    """What an engine knows of the future: ``block`` and a name with its value."""

    block: int
    name: str
    value: float


class Policy(Protocol):
    """Orders the blocks of each tier by who leaves next."""

    def add(self, tier: int, records: Sequence[Record]) -> None:
        """These blocks are resident on ``tier`` now, used now; parents come before their children.

        They count as touched in this order.
        A parent may come in a later call than its child, and a block that is there already may
        come again: then it was replaced, which counts as a touch.
        """
        ...

    def touch(self, blocks: Sequence[int]) -> None:
        """These blocks, root first, were used; or their last lease or pin ended.

        A use of a prefix touches all of it, in one call, whatever of it was saved before.
        """
        ...

    def advise(self, hints: Sequence[Hint]) -> None:
        """Take what engines say of the future; a policy may ignore it."""
        ...

    def forget(self, tier: int, blocks: Sequence[int]) -> None:
        """These blocks left ``tier``; within one call in any order.  Absent ones do no harm."""
        ...

    def victims(self, tier: int) -> Iterator[Victim]:
        """Blocks of ``tier`` that may leave, best first, lazily.

        A block with a child on the same tier is never offered.  The store takes a victim by
        calling ``forget`` before it asks for the next one; to ask without that is to pass over it
        (it is leased, pinned), and then it is not offered again until it is touched.  To stop
        asking is no verdict: the last one may be offered again.  The store may call every other
        method while the iterator is open.
        """
        ...
