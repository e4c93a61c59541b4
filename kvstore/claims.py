"""Which frames have their slot and pages to themselves: of a million, sorted out at once.

Nearly all have; only those that share something are looked at one by one, the newest first.  Runs
of pages have the fields page and count; frame i has the runs ``ends[i]..ends[i + 1]`` of
``extents``.
"""

import numpy as np
from numpy.typing import NDArray

Runs = NDArray[np.void]
Pages = NDArray[np.int64]

NO_RUNS: Runs = np.empty(0, [("page", "<u4"), ("count", "<u4")])

_HALF = np.uint64(32)
_LOW = np.uint64((1 << 32) - 1)


def unrivalled(
    slots: NDArray[np.uint32], extents: Runs, ends: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Which frames name no slot and no page that is named twice; bool ``[n]``."""
    alone: NDArray[np.bool_] = np.bincount(slots)[slots] == 1
    packed = _packed(extents)
    if _are_shared(np.sort(packed)).any():
        order = np.argsort(packed)
        owners = np.repeat(np.arange(len(slots)), np.diff(ends))
        alone[owners[order[_are_shared(packed[order])]]] = False
    return alone


def used_pages(extents: Runs, pages: int) -> NDArray[np.bool_]:
    """Which of a slab's pages lie in these runs, which do not overlap; bool ``[pages]``."""
    starts, ends = _unpacked(_packed(extents))
    edges = np.zeros(pages + 1, np.int8)
    edges[starts] += 1
    edges[ends] -= 1
    return np.cumsum(edges[:-1], dtype=np.int8).astype(np.bool_)


def free_runs(extents: Runs, pages: int) -> tuple[Pages, Pages]:
    """First pages and ends of what lies between these runs, which do not overlap."""
    starts, ends = _unpacked(np.sort(_packed(extents)))
    first, end = np.concatenate(([0], ends)), np.concatenate((starts, [pages]))
    is_free = first < end
    return first[is_free], end[is_free]


def _packed(extents: Runs) -> NDArray[np.uint64]:
    """Runs as numbers, page before count: these are sorted four times as fast as positions."""
    packed: NDArray[np.uint64] = extents["page"].astype(np.uint64) << _HALF | extents["count"]
    return packed


def _unpacked(packed: NDArray[np.uint64]) -> tuple[Pages, Pages]:
    """First pages and ends."""
    starts = (packed >> _HALF).astype(np.int64)
    return starts, starts + (packed & _LOW).astype(np.int64)


def _are_shared(packed: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which of sorted runs have a page that another one has."""
    starts, ends = _unpacked(packed)
    is_shared = np.zeros(len(packed), np.bool_)
    is_shared[:-1] = starts[1:] < ends[:-1]
    is_shared[1:] |= starts[1:] < np.maximum.accumulate(ends)[:-1]
    return is_shared
