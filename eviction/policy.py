"""Who leaves next: the protocol that every eviction policy implements.

A policy knows no bytes and does no I/O.  It is told what is resident on which tier and answers
with victims.  Blocks are named by ``block``, a small integer that stands for the same block while
it is resident anywhere and is used again afterwards; ``key`` is what remembers a block that left.

One thread at a time calls a policy: the store does, under its lock.
"""

from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

ROOT = -1
"""The parent of a block that has none."""


class Action(Enum):
    """What the store is to do with a victim."""

    DROP = "drop"  # it leaves the tier; the store still lets one that is dirty go down first
    DEMOTE = "demote"  # it leaves only if the next tier has it or takes it
    SHRINK = "shrink"  # it stays, in a smaller encoding


Blocks = Sequence[int]
"""Blocks by number, each once."""
Many = NDArray[np.int32]
"""Blocks by number, each once, where there may be a million of them."""
Victim = tuple[int, Action]
"""A block that leaves a tier, and how."""
MayLeave = Callable[[int, Action], bool]
"""Asked of a block before it is a victim: whether it may leave in this way."""


class Facts(NamedTuple):
    """What the store knows of every block, side by side: one entry for each number there may be.

    The store's own columns, to be read and not to be written.  A block's entries are in place
    before it comes to a tier and stay until it has left the last one; of its parent it is known
    that it is ``ROOT`` or a block that is resident on some tier.
    """

    keys: NDArray[np.object_]  # bytes, of the frame; key[32] is the group
    parents: NDArray[np.int32]
    nbytes: tuple[NDArray[np.uint32], ...]  # by tier
    tokens: NDArray[np.uint32]
    tenants: NDArray[np.uint32]
    fidelities: NDArray[np.uint8]
    expiries: NDArray[np.float64]  # seconds since the epoch, 0 for never


class Hint(NamedTuple):
    """What an engine knows of the future: ``block`` and a name with its value."""

    block: int
    name: str
    value: float


class Policy(Protocol):
    """Orders the blocks of each tier by who leaves next; made with the facts that it weighs."""

    def add(self, tier: int, blocks: Blocks | Many) -> None:
        """These blocks are resident on ``tier`` now, used now; parents come before their children.

        They count as touched in this order.  A store that starts with a million of them hands them
        over as an array, in one call.
        A parent may come in a later call than its child, and a block that is there already may
        come again: then it was replaced, which counts as a touch.
        """
        ...

    def touch(self, blocks: Blocks) -> None:
        """These blocks, root first, were used; or their last lease or pin ended.

        A use of a prefix touches all of it, in one call, whatever of it was saved before.
        """
        ...

    def advise(self, hints: Sequence[Hint]) -> None:
        """Take what engines say of the future; a policy may ignore it."""
        ...

    def forget(self, tier: int, blocks: Blocks) -> None:
        """These blocks left ``tier``; within one call in any order.  Absent ones do no harm."""
        ...

    def victims(self, tier: int, may_leave: MayLeave) -> Iterator[Victim]:
        """Blocks that leave ``tier``, best first, lazily.

        ``may_leave`` is asked before a block is given.  One that may not leave (it is leased,
        pinned) is passed over and not asked about again until it is touched.  A block that is given
        has left the tier, as if ``forget`` had been called, except to be shrunk: then it stays.
        A block with a child on the same tier never leaves.  The store may call every other method
        while the iterator is open.
        """
        ...
