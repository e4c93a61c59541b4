"""Chains of parents, a million blocks at once: who reaches a root, what ancestors hand down and
descendants hand up, who was used last.

A block's parent is its number, NONE for a block that has none here.  Chains are walked by doubling:
each round every block looks twice as far up, so a chain of 65,000 blocks takes 16 rounds.  A parent
stands earlier in its prompt than its child, so no chain is a ring; whoever finds the parents
(``Found.parents``) sees to it.
"""

import numpy as np
from numpy.typing import NDArray

NONE = -1

Numbers = NDArray[np.int32]

_FARTHEST = (1 << 32) - 1


def reaching(parents: Numbers, is_first: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which blocks' chains lead to a block that ``is_first``; bool ``[n]``."""
    count = len(parents)
    root, nowhere = count, count + 1
    up = np.arange(count + 2, dtype=np.int32)
    up[:count] = np.where(is_first, root, np.where(parents == NONE, nowhere, parents))
    while (up[:count] < count).any():
        up = up[up]
    reached: NDArray[np.bool_] = up[:count] == root
    return reached


def handed_down(parents: Numbers, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The greatest of a block's own value and its ancestors'; uint64 ``[n]``."""
    up = np.append(parents, np.int32(NONE))  # NONE, the last one, leads to itself
    greatest = np.append(values, np.uint64(0))
    while (up != NONE).any():
        greatest = np.maximum(greatest, greatest[up])
        up = up[up]
    return greatest[:-1]


def handed_up(parents: Numbers, values: Numbers) -> Numbers:
    """The greatest of a block's own value and its descendants'; int32 ``[n]``."""
    up = np.append(parents, np.int32(NONE))
    greatest = values.copy()
    below = np.flatnonzero(parents != NONE)
    while len(below):
        np.maximum.at(greatest, up[below], greatest[below])
        up = up[up]
        below = below[up[below] != NONE]
    return greatest


def by_recency(
    parents: Numbers, generations: NDArray[np.uint64], positions: NDArray[np.uint64]
) -> Numbers:
    """The blocks, the one that was used last first, as far as their generations tell.

    To use a block is to use its whole chain, the root last.  So the newest block comes behind its
    ancestors, then the newest that is left behind those of its ancestors that are left.
    """
    count = len(parents)
    ages = np.empty(count, np.int32)  # 0 for the oldest
    ages[np.argsort(generations)] = np.arange(count, dtype=np.int32)
    since = (count - handed_up(parents, ages)).astype(np.uint64)
    depth = np.minimum(positions, np.uint64(_FARTHEST))
    return np.argsort(since << np.uint64(32) | depth).astype(np.int32)
