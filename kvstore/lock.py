"""The store's lock: one lock with two doors, so that no engine waits for housekeeping.

    with lock:              an engine's verb
    with lock.behind:       the mover's threads and whoever else can wait

A plain lock is not fair: a thread that lets go of it and takes it again some microseconds later
finds it free each time, while another one that was asleep is still waking up.  A writer that is
never held up by its disk kept engines waiting for 50 to 130 ms that way.  So whoever comes from
behind lets those at the front go first, up to ``_PATIENCE_S``, after which it queues like them.
"""

import threading
import time
from types import TracebackType

_PATIENCE_S = 0.02
_PAUSE_S = 50e-6


class Turns:
    """Lets as many threads in as a lock or semaphore does, and knows whether some wait."""

    def __init__(self, lock: "threading.Lock | threading.Semaphore") -> None:
        self._lock = lock
        self._waiting: set[int] = set()  # threads

    @property
    def is_crowded(self) -> bool:
        """Whether a thread waits for its turn."""
        return bool(self._waiting)

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            thread = threading.get_ident()
            self._waiting.add(thread)
            self._lock.acquire()
            self._waiting.discard(thread)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lock.release()


class StoreLock(Turns):
    """Guards a store's books.  Not reentrant."""

    def __init__(self) -> None:
        lock = threading.Lock()
        super().__init__(lock)
        self.behind = _Behind(lock, self)


class _Behind:
    """The other door."""

    def __init__(self, lock: threading.Lock, front: Turns) -> None:
        self._lock = lock
        self._front = front

    def __enter__(self) -> None:
        patience = time.monotonic() + _PATIENCE_S
        while self._front.is_crowded and time.monotonic() < patience:
            time.sleep(_PAUSE_S)
        self._lock.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lock.release()
