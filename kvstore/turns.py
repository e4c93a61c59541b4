"""Whose turn it is to use a medium: so many threads at once, the others wait.

Writers outnumber the turns by one, so that one seals its next blocks while another one's are being
written: the medium is as deep in I/O as the settings say, and never waits for a checksum.
"""

import threading
from types import TracebackType


class Turns:
    """``with turns:`` around I/O.  Any thread may call; not reentrant."""

    def __init__(self, depth: int) -> None:
        self._free = threading.Semaphore(depth)
        self._waiting: set[int] = set()  # threads

    @property
    def is_crowded(self) -> bool:
        """Whether a thread waits for its turn."""
        return bool(self._waiting)

    def __enter__(self) -> None:
        if not self._free.acquire(blocking=False):
            thread = threading.get_ident()
            self._waiting.add(thread)
            self._free.acquire()
            self._waiting.discard(thread)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._free.release()
