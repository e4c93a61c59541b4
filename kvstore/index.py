"""Key to packed columns: what the store knows of every block, 300 bytes each at most.

A row is the block's number everywhere in the process: in policies, leases and the mover's queues.
Columns are flat arrays of a capacity fixed at construction (their memory is touched as rows are
used), and 256 small dicts lead from frame id to row, for one large dict stops the world for 95 ms
when it grows.  Children are an intrusive list, so that a lost parent finds what hangs from it.

One thread at a time (the store's lock).
"""

from collections.abc import Iterator, Sequence
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

NONE = -1
ABSENT = -1
HOST, DISK = 0, 1
"""Numbers of the tiers, as policies and columns count them."""
TIERS = ("host", "disk")


class Index:
    """Frame ids to rows, and the columns of the rows."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._maps: list[dict[bytes, int]] = [{} for _ in range(256)]
        self._free = NONE  # head of the list of freed rows, chained through `parent`
        self._unused = 0  # rows from here on were never used
        self.live = 0
        # an array, for a list of so many is what the garbage collector stops the world for
        self.fid: NDArray[np.object_] = np.full(capacity, b"", np.object_)
        self._live = _integers("B", capacity)
        self.parent = _integers("i", capacity)
        self._child = _integers("i", capacity)
        self._next = _integers("i", capacity)
        self._prev = _integers("i", capacity)
        self.tokens = _integers("I", capacity)
        self.generation = _integers("Q", capacity)
        self.expiry = _floats(capacity)
        self.tenant = _integers("H", capacity)
        self.fidelity = _integers("B", capacity)
        self.place = tuple(_integers("i", capacity) for _ in TIERS)  # slot there, or ABSENT
        self.nbytes = tuple(_integers("I", capacity) for _ in TIERS)  # payload there
        self.stripe = _integers("B", capacity)
        self.plain = _integers("B", capacity)  # 1: the host frame begins with the raw base
        self.private: set[int] = set()  # rows that never leave host memory

    def find(self, fid: bytes) -> int:
        """Row of a frame id, or NONE."""
        return self._maps[fid[0]].get(fid, NONE)

    def find_all(self, fids: Sequence[bytes]) -> list[int]:
        """Rows of frame ids, NONE where there is none."""
        maps = self._maps
        return [maps[fid[0]].get(fid, NONE) for fid in fids]

    def insert(self, fid: bytes, parent: int) -> int:
        """A row for a frame id that has none.

        There are as many rows as all tiers have slots, and a row has a slot on some tier.
        """
        row = self._free
        if row != NONE:
            self._free = self.parent[row]
        else:
            row = self._unused
            self._unused += 1
        self.fid[row] = fid
        self._live[row] = 1
        self._child[row] = NONE
        for place in self.place:
            place[row] = ABSENT
        self._link(row, parent)
        self._maps[fid[0]][fid] = row
        self.live += 1
        return row

    def fill(self, fids: NDArray[np.object_], parents: NDArray[np.int32]) -> None:
        """Rows 0 .. n of an empty index for n frame ids, all different, and their parents' rows."""
        count = len(fids)
        self._unused = self.live = count
        self.fid[:count] = fids
        self._fill_maps(fids)
        for column in (self._child, self._next, self._prev, *self.place):
            np.asarray(column)[:count] = NONE
        np.asarray(self._live)[:count] = 1
        np.asarray(self.parent)[:count] = parents
        # siblings side by side; numbers are sorted four times as fast as their places
        packed = np.sort((parents.astype(np.int64) << 32 | np.arange(count))[parents != NONE])
        above, rows = packed >> 32, packed & 0xFFFFFFFF
        is_next = np.diff(above, prepend=NONE) == 0
        np.asarray(self._child)[above[~is_next]] = rows[~is_next]
        younger = np.flatnonzero(is_next)
        np.asarray(self._prev)[rows[younger]] = rows[younger - 1]
        np.asarray(self._next)[rows[younger - 1]] = rows[younger]

    def remove(self, row: int) -> None:
        """Forget a row that has no children."""
        del self._maps[self.fid[row][0]][self.fid[row]]
        self._unlink(row)
        self.fid[row] = b""
        self._live[row] = 0
        self.private.discard(row)
        self.parent[row] = self._free
        self._free = row
        self.live -= 1

    def children(self, row: int) -> Iterator[int]:
        """Rows whose parent is ``row``; the row may not lose children meanwhile."""
        child = self._child[row]
        while child != NONE:
            yield child
            child = self._next[child]

    def has_children(self, row: int) -> bool:
        """Whether some row's parent is ``row``."""
        return self._child[row] != NONE

    def roots(self) -> list[int]:
        """Rows without a parent."""
        rows = self.rows()
        found: list[int] = rows[np.asarray(self.parent)[rows] == NONE].tolist()
        return found

    def subtree(self, row: int) -> list[int]:
        """The row and all that hangs from it, parents before children."""
        rows = [row]
        for parent in rows:  # grows while it is walked
            rows.extend(self.children(parent))
        return rows

    def rows(self) -> NDArray[np.intp]:
        """Every row in use."""
        return np.flatnonzero(np.asarray(self._live)[: self._unused])

    def _fill_maps(self, fids: NDArray[np.object_]) -> None:
        first = np.fromiter(map(itemgetter(0), fids.tolist()), np.uint8, len(fids))
        order = np.argsort(first, kind="stable")
        ends = np.cumsum(np.bincount(first, minlength=len(self._maps))).tolist()
        start = 0
        for number, end in enumerate(ends):
            rows = order[start:end]
            self._maps[number] = dict(zip(fids[rows].tolist(), rows.tolist(), strict=True))
            start = end

    def _link(self, row: int, parent: int) -> None:
        self.parent[row] = parent
        self._prev[row] = NONE
        self._next[row] = NONE
        if parent != NONE:
            first = self._child[parent]
            self._next[row] = first
            if first != NONE:
                self._prev[first] = row
            self._child[parent] = row

    def _unlink(self, row: int) -> None:
        parent, before, after = self.parent[row], self._prev[row], self._next[row]
        if after != NONE:
            self._prev[after] = before
        if before != NONE:
            self._next[before] = after
        elif parent != NONE:
            self._child[parent] = after
        self.parent[row] = NONE


def _integers(code: str, capacity: int) -> "memoryview[int]":
    """A column of integers; an item of a memoryview costs 40 ns, one of an array 100."""
    column: memoryview[int] = np.zeros(capacity, code).data
    return column


def _floats(capacity: int) -> "memoryview[float]":
    return memoryview(bytearray(8 * capacity)).cast("d")
