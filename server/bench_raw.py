"""The disk with nothing in between: what the store's I/O is held against.

Bare threads read and write whole blocks with O_DIRECT, as many at a time as the store does.
Measured from Python this is 0.96 to 1.03 of what fio reaches.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from ..kvstore.files import DirectFile
from ..kvstore.pages import Bytes


class RawDisk:
    """One file, and threads that read or write blocks of it; a context manager."""

    def __init__(self, path: Path, *, threads: int) -> None:
        self._file = DirectFile(path)
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads)

    def format(self, nbytes: int, source: Bytes) -> None:
        """Give the file this length, every byte of it written once."""
        self._file.resize(nbytes)
        for offset in range(0, nbytes, source.nbytes):
            self._file.write(offset, [source[: nbytes - offset]])
        self._file.sync()

    def read(self, offsets: Sequence[int], into: Sequence[Bytes]) -> None:
        """Fill the arrays, each from its own offset."""
        self._share(self._file.read, offsets, into)

    def write(self, offsets: Sequence[int], data: Sequence[Bytes]) -> None:
        """Write the arrays, each to its own offset, and wait for the medium."""
        self._share(self._file.write, offsets, data)
        self._file.sync()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown()
        self._file.close()

    def _share(
        self,
        move: Callable[[int, Sequence[Bytes]], None],
        offsets: Sequence[int],
        arrays: Sequence[Bytes],
    ) -> None:
        todo = iter(list(zip(offsets, arrays, strict=True)))

        def work() -> None:
            for offset, array in todo:  # each thread takes the next one that nobody took
                move(offset, [array])

        for done in [self._pool.submit(work) for _ in range(self._threads)]:
            done.result()
