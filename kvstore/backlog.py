"""Work that threads take from in batches: enough to share an I/O, not so much that others idle."""

from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Backlog(Generic[_T]):
    """First in, first out.  Any thread may call.

    A batch has at most ``count`` items, about ``nbytes`` bytes where ``size`` tells an item's, and
    no more than the taker's share of what waits for ``takers`` threads.
    """

    def __init__(self, size: Callable[[_T], int], *, count: int, nbytes: int, takers: int) -> None:
        self._size = size
        self._count = count
        self._nbytes = nbytes
        self._takers = takers
        self._queue: SimpleQueue[_T | None] = SimpleQueue()

    def __len__(self) -> int:
        """How many wait, about."""
        return self._queue.qsize()

    def put(self, item: _T) -> None:
        """Add to the end."""
        self._queue.put(item)

    def end(self) -> None:
        """Let all takers go home, each once it has taken what came before."""
        for _ in range(self._takers):
            self._queue.put(None)

    def take(self) -> list[_T]:
        """Wait for something to do; empty at the end."""
        item = self._queue.get()
        batch: list[_T] = []
        left, room = min(self._count, 1 + len(self) // self._takers), self._nbytes
        while item is not None:
            batch.append(item)
            size = self._size(item)
            left, room = left - 1, room - size
            if not left or room < size:  # what comes next is likely to be as large
                return batch
            try:
                item = self._queue.get_nowait()
            except Empty:
                return batch
        if batch:
            self._queue.put(None)  # the end: for the next turn
        return batch
