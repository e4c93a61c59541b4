"""Key to packed columns: what the store knows of every block, 300 bytes each at most.

A row is the block's number everywhere in the process: in policies, leases and the mover's queues.
Columns are flat arrays of a capacity fixed at construction (their memory is touched as rows are
used), and 256 small dicts lead from frame id to row, for one large dict stops the world for 95 ms
when it grows.  Children are an intrusive list, so that a lost parent finds what hangs from it.

One thread at a time (the store's lock).
"""

from array import array
from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from ..eviction.policy import Facts

NONE = -1
ABSENT = -1
HOST, DISK = 0, 1
"""Numbers of the tiers, as policies and columns count them."""
TIERS = ("host", "disk")

Rows = NDArray[np.intp]


class Columns(NamedTuple):
    """The columns as arrays, for many rows at once.

    The index has them under the same names as memoryviews, for one row at a time: an item of those
    costs half of what one of an array does.
    """

    parent: NDArray[np.int32]
    generation: NDArray[np.uint64]  # 0: the row is not in use
    tokens: NDArray[np.uint32]
    expiry: NDArray[np.float64]
    tenant: NDArray[np.uint32]
    fidelity: NDArray[np.uint8]
    place: tuple[NDArray[np.int32], ...]  # by tier: slot there, or ABSENT
    nbytes: tuple[NDArray[np.uint32], ...]  # by tier: payload there
    stripe: NDArray[np.uint8]
    plain: NDArray[np.uint8]  # 1: the host frame begins with the raw base


class Index:
    """Frame ids to rows, and the columns of the rows.

    A row that is not in use has no children, siblings or places.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._maps: list[dict[bytes, int]] = [{} for _ in range(256)]
        self._free = array("i")  # rows that were used before
        self.used = 0  # rows that were ever used; from here on never
        # an array, for a list of so many is what the garbage collector stops the world for
        self.fid: NDArray[np.object_] = np.full(capacity, b"", np.object_)
        self.columns = columns = _columns(capacity)
        self.parent = columns.parent.data
        self.generation = columns.generation.data
        self.tokens = columns.tokens.data
        self.expiry = cast("memoryview[float]", columns.expiry.data)
        self.tenant = columns.tenant.data
        self.fidelity = columns.fidelity.data
        self.place = tuple(column.data for column in columns.place)
        self.nbytes = tuple(column.data for column in columns.nbytes)
        self.stripe = columns.stripe.data
        self.plain = columns.plain.data
        self._children = np.zeros(capacity, np.int32)  # of each row, its first child
        self.child = self._children.data
        self._siblings = np.zeros((2, capacity), np.int32)
        self._next, self._prev = (column.data for column in self._siblings)
        self.private: set[int] = set()  # rows that never leave host memory

    @property
    def live(self) -> int:
        """Rows in use."""
        return self.used - len(self._free)

    def find(self, fid: bytes) -> int:
        """Row of a frame id, or NONE."""
        return self._maps[fid[0]].get(fid, NONE)

    def find_all(self, fids: Sequence[bytes]) -> list[int]:
        """Rows of frame ids, NONE where there is none."""
        maps = self._maps
        return [maps[fid[0]].get(fid, NONE) for fid in fids]

    def insert(self, fid: bytes, parent: int, generation: int) -> int:
        """A row for a frame id that has none.

        There are as many rows as slots on all tiers, and some to spare for those that have none.
        """
        return self.insert_chain([fid], parent, generation)[0]

    def insert_chain(self, fids: Sequence[bytes], parent: int, generation: int) -> list[int]:
        """Rows for frame ids that have none: a child of ``parent``, its child, and so on.

        Generations are counted up from ``generation``.
        """
        maps, names, generations = self._maps, self.fid, self.generation
        parents, child = self.parent, self.child
        rows = self._take(len(fids))
        self._link(rows[0], parent)
        parent = NONE
        for fid, row in zip(fids, rows, strict=True):
            maps[fid[0]][fid] = row
            names[row] = fid
            generations[row] = generation
            generation += 1
            if parent != NONE:
                parents[row] = parent
                child[parent] = row
            parent = row
        return rows

    def fill(self, fids: NDArray[np.object_], parents: NDArray[np.int32]) -> None:
        """Rows 0 .. n of an empty index for n frame ids, all different, and their parents' rows."""
        count = len(fids)
        self.used = count
        self.fid[:count] = fids
        self._fill_maps(fids)
        for column in (self._children, *self._siblings, *self.columns.place):
            column[:count] = NONE
        self.columns.parent[:count] = parents
        # siblings side by side; numbers are sorted four times as fast as their places
        packed = np.sort((parents.astype(np.int64) << 32 | np.arange(count))[parents != NONE])
        above, rows = packed >> 32, packed & 0xFFFFFFFF
        is_next = np.diff(above, prepend=NONE) == 0
        self._children[above[~is_next]] = rows[~is_next]
        younger = np.flatnonzero(is_next)
        following, preceding = self._siblings
        preceding[rows[younger]] = rows[younger - 1]
        following[rows[younger - 1]] = rows[younger]

    def remove(self, row: int) -> None:
        """Forget a row that has no children and no place."""
        fid = self.fid[row]
        del self._maps[fid[0]][fid]
        self.fid[row] = b""
        self.generation[row] = 0
        parent, before, after = self.parent[row], self._prev[row], self._next[row]
        if after != NONE:
            self._prev[after] = before
            self._next[row] = NONE
        if before != NONE:
            self._next[before] = after
            self._prev[row] = NONE
        elif parent != NONE:
            self.child[parent] = after
        if row in self.private:
            self.private.discard(row)
        self._free.append(row)

    def children(self, row: int) -> Iterator[int]:
        """Rows whose parent is ``row``; the row may not lose children meanwhile."""
        child = self.child[row]
        while child != NONE:
            yield child
            child = self._next[child]

    def has_children(self, row: int) -> bool:
        """Whether some row's parent is ``row``."""
        return self.child[row] != NONE

    def roots(self) -> list[int]:
        """Rows without a parent."""
        rows = self.rows()
        found: list[int] = rows[self.columns.parent[rows] == NONE].tolist()
        return found

    def subtree(self, row: int) -> list[int]:
        """The row and all that hangs from it, parents before children."""
        rows = [row]
        for parent in rows:  # grows while it is walked
            rows.extend(self.children(parent))
        return rows

    def rows(self) -> Rows:
        """Every row in use."""
        return np.flatnonzero(self.columns.generation[: self.used])

    def facts(self) -> Facts:
        """The columns that policies weigh."""
        known = self.columns
        return Facts(
            self.fid,
            known.parent,
            known.nbytes,
            known.tokens,
            known.tenant,
            known.fidelity,
            known.expiry,
        )

    def _fill_maps(self, fids: NDArray[np.object_]) -> None:
        first = np.fromiter(map(itemgetter(0), fids.tolist()), np.uint8, len(fids))
        order = np.argsort(first, kind="stable")
        ends = np.cumsum(np.bincount(first, minlength=len(self._maps))).tolist()
        start = 0
        for number, end in enumerate(ends):
            rows = order[start:end]
            self._maps[number] = dict(zip(fids[rows].tolist(), rows.tolist(), strict=True))
            start = end

    def _take(self, count: int) -> list[int]:
        """Rows that are not in use; those that were never used are made ready."""
        free = self._free
        kept = max(0, len(free) - count)
        rows = free[kept:].tolist()
        del free[kept:]
        if len(rows) < count:
            first = self.used
            self.used += count - len(rows)
            rows.extend(range(first, self.used))
            fresh = slice(first, self.used)
            for column in (self._children, *self._siblings, *self.columns.place):
                column[fresh] = NONE
        return rows

    def _link(self, row: int, parent: int) -> None:
        self.parent[row] = parent
        if parent != NONE:
            first = self.child[parent]
            if first != NONE:
                self._next[row] = first
                self._prev[first] = row
            self.child[parent] = row


def _columns(capacity: int) -> Columns:
    return Columns(
        parent=np.zeros(capacity, np.int32),
        generation=np.zeros(capacity, np.uint64),
        tokens=np.zeros(capacity, np.uint32),
        expiry=np.zeros(capacity, np.float64),
        tenant=np.zeros(capacity, np.uint32),
        fidelity=np.zeros(capacity, np.uint8),
        place=tuple(np.zeros(capacity, np.int32) for _ in TIERS),
        nbytes=tuple(np.zeros(capacity, np.uint32) for _ in TIERS),
        stripe=np.zeros(capacity, np.uint8),
        plain=np.zeros(capacity, np.uint8),
    )
