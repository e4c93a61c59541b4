"""SHA-256 of files that were read before, so that a second start need not read them again.

A file is known again by device, inode, size, mtime and ctime; whoever writes to it changes its
ctime, which nobody can set back.  A file that was touched within the last seconds is not
remembered: clocks of file systems tick coarsely, and another write might leave the same times.

One small JSON file, replaced in one step.  A damaged, foreign or unwritable one costs a reading,
never a wrong digest; of two processes that write at once one may lose its entry.
"""

import logging
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import msgspec

_log = logging.getLogger(__name__)

_ENTRIES = 4096
_SETTLED_NS = 2_000_000_000


@dataclass(frozen=True, slots=True)
class Stamp:
    """By what an unchanged file is known again."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Self:
        """The stamp of an open file."""
        return cls(
            status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
        )


@dataclass(frozen=True, slots=True)
class _Entry:
    stamp: Stamp
    sha256: str

    def __post_init__(self) -> None:
        if len(bytes.fromhex(self.sha256)) != 32:
            raise ValueError(f"{self.sha256!r} is no SHA-256")


class DigestCache:
    """Digests by stamp, in the file ``path``.  Any thread or process may use it."""

    def __init__(self, path: Path, *, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._path = path
        self._clock_ns = clock_ns

    def get(self, stamp: Stamp) -> bytes | None:
        """The digest of a file that was read with this stamp, 32 bytes."""
        return next((bytes.fromhex(e.sha256) for e in self._load() if e.stamp == stamp), None)

    def put(self, stamp: Stamp, digest: bytes) -> None:
        """Remember a digest, unless the file was written so lately that it may change unseen."""
        if self._clock_ns() - max(stamp.mtime_ns, stamp.ctime_ns) < _SETTLED_NS:
            return
        others = [entry for entry in self._load() if entry.stamp != stamp]
        kept = [*others[1 - _ENTRIES :], _Entry(stamp, digest.hex())]
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _replace(self._path, msgspec.json.encode(kept))
        except OSError as exc:
            _log.debug("digests are not remembered in %s: %s", self._path, exc)

    def _load(self) -> list[_Entry]:
        try:
            with self._path.open("rb") as file:
                if not _is_ours(os.fstat(file.fileno())):
                    return []
                return msgspec.json.decode(file.read(), type=list[_Entry])
        except (OSError, ValueError, RecursionError) as exc:
            _log.debug("no digests are remembered in %s: %s", self._path, exc)
            return []


def _is_ours(status: os.stat_result) -> bool:
    """Whether nobody else could have written the file: a forged entry would hide other weights."""
    return status.st_uid == os.getuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _replace(path: Path, data: bytes) -> None:
    fresh = path.with_name(f"{path.name}.{os.getpid()}.new")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
