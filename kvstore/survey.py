"""Looks over all of a store's books at once: what is dirty, what is used, whether they add up.

Every function is called with the store's lock held.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .index import ABSENT, DISK, HOST, NONE, Index
from .residency import Residency
from .slab import PAGE_BYTES, Slab


class Usage(NamedTuple):
    """One tier: bytes of its pages, of those in use, of payload in them; frames; leased places."""

    capacity_bytes: int
    used_bytes: int
    payload_bytes: int
    blocks: int
    leased: int


def dirty(residency: Residency) -> list[int]:
    """Rows whose copy on disk is missing, oldest first, or behind what was said of them."""
    index = residency.index
    if not residency.disk.stripes:
        return []
    rows = np.flatnonzero(_are_on(index, HOST) & ~_are_on(index, DISK))
    by_age = rows[np.argsort(index.columns.generation[rows])]
    missing = [row for row in by_age.tolist() if row not in index.private]
    return missing + sorted(residency.outdated.difference(missing))


def usage(residency: Residency, tier: int, slabs: Sequence[Slab]) -> Usage:
    """What a tier holds."""
    here = _are_on(residency.index, tier)
    nbytes = residency.index.columns.nbytes[tier][: len(here)]
    return Usage(
        sum(slab.pages for slab in slabs) * PAGE_BYTES,
        sum(slab.used_bytes for slab in slabs),
        int(nbytes.sum(where=here, dtype=np.uint64)),
        int(np.count_nonzero(here)),
        sum(slab.leased for slab in slabs),
    )


def audit(residency: Residency) -> None:
    """Raise AssertionError unless places, rows and parents agree and every slab adds up."""
    index = residency.index
    residency.host.slab.audit()
    residency.disk.audit()
    places = index.columns.place[HOST][: index.used]
    hosted = places[places != ABSENT]
    assert len(np.unique(hosted)) == len(hosted), "two blocks in one place"
    copies = [place for row in index.rows().tolist() for place, _ in residency.disk_copies(row)]
    assert len(set(copies)) == len(copies), "two blocks in one place on disk"
    assert residency.room.unwritten <= set(np.flatnonzero(places != ABSENT).tolist())
    for row in index.rows().tolist():
        parent = index.parent[row]
        assert parent == NONE or index.fid[parent], "a resident child without its parent"


def _are_on(index: Index, tier: int) -> NDArray[np.bool_]:
    """Which rows are on a tier; bool ``[rows that were ever used]``: a row in no use is on none."""
    present: NDArray[np.bool_] = index.columns.place[tier][: index.used] != ABSENT
    return present
