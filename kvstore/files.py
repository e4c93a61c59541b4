"""A slab file: aligned reads and writes past the page cache, and the errors they may raise.

With O_DIRECT a block goes straight between the disk and host pages; the page cache would be a
second, unaccounted tier of memory.  Where the file system refuses it, I/O is buffered and the
kernel is told to forget the pages.  Every failure of the medium leaves here as ``TierError``.
"""

import errno
import mmap
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .errors import TierError

Bytes = NDArray[np.uint8]

ALIGNMENT = 4096
_DIRECT = getattr(os, "O_DIRECT", 0)


class BlockFile(Protocol):
    """What a stripe needs of a file; tests put one that fails in between.

    Offsets, lengths and addresses are multiples of ``ALIGNMENT``.  Any thread may call.
    """

    def read(self, offset: int, into: Sequence[Bytes]) -> None:
        """Fill the arrays from ``offset`` on; raises TierError where the file ends before."""
        ...

    def write(self, offset: int, data: Sequence[Bytes]) -> None:
        """Write the arrays at ``offset``, one behind the other."""
        ...

    def sync(self) -> None:
        """Return when all that was written is on the medium."""
        ...

    def resize(self, nbytes: int) -> None:
        """Give the file exactly ``nbytes``, allocated."""
        ...

    def close(self) -> None:
        """Let go of the file."""
        ...


OpenFile = Callable[[Path], BlockFile]


class DirectFile:
    """A file opened with O_DIRECT where the file system lets it be."""

    def __init__(self, path: Path, *, direct: bool = True) -> None:
        self.path = path
        self.is_direct = direct and _DIRECT != 0
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        try:
            self._fd = os.open(path, flags | (_DIRECT if self.is_direct else 0), 0o600)
        except OSError as error:
            if not self.is_direct or error.errno != errno.EINVAL:
                raise TierError(f"cannot open {path}: {error.strerror}") from error
            self.is_direct = False
            self._fd = os.open(path, flags, 0o600)

    @property
    def nbytes(self) -> int:
        """Length of the file."""
        return os.fstat(self._fd).st_size

    def read(self, offset: int, into: Sequence[Bytes]) -> None:
        """Fill the arrays from ``offset`` on."""
        self._move(os.preadv, offset, into)

    def write(self, offset: int, data: Sequence[Bytes]) -> None:
        """Write the arrays at ``offset``."""
        self._move(os.pwritev, offset, data)

    def sync(self) -> None:
        """fdatasync."""
        self._check_open()
        try:
            if sys.platform == "darwin":
                os.fsync(self._fd)
            else:
                os.fdatasync(self._fd)
        except OSError as error:
            raise TierError(f"cannot sync {self.path}: {error.strerror}") from error

    def resize(self, nbytes: int) -> None:
        """Truncate and allocate."""
        try:
            os.ftruncate(self._fd, nbytes)
            if nbytes and sys.platform != "darwin":  # which allocates as it writes
                os.posix_fallocate(self._fd, 0, nbytes)
        except OSError as error:
            raise TierError(f"cannot give {self.path} {nbytes} bytes: {error.strerror}") from error

    def close(self) -> None:
        """Close the descriptor; a thread that hangs in it must not go on with the next file's."""
        fd, self._fd = self._fd, -1
        os.close(fd)

    def _check_open(self) -> None:
        if self._fd < 0:
            raise TierError(f"{self.path} was closed")

    def _move(
        self,
        call: Callable[[int, list[memoryview], int], int],
        offset: int,
        arrays: Sequence[Bytes],
    ) -> None:
        self._check_open()
        todo = [array.data for array in arrays]
        try:
            while todo:
                moved = call(self._fd, todo, offset)
                if not moved:
                    raise TierError(f"{self.path} ends before {offset + todo[0].nbytes}")
                offset += moved
                todo = _after(todo, moved)
        except OSError as error:
            raise TierError(f"{self.path} at {offset}: {error.strerror}") from error
        if not self.is_direct and sys.platform != "darwin":
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)


def aligned(nbytes: int) -> Bytes:
    """Zeroed memory that O_DIRECT takes; what is only read of it costs nothing."""
    memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(memory, np.uint8)


def sync_directory(directory: Path) -> None:
    """Return when the names in a directory are on the medium; raises OSError."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _after(views: list[memoryview], moved: int) -> list[memoryview]:
    for position, data in enumerate(views):
        if moved < data.nbytes:
            return [data[moved:], *views[position + 1 :]]
        moved -= data.nbytes
    return []
