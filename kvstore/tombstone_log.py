"""The file ``tombstones.kvs``: tombstones that are durable before anybody relies on them.

Appended and synced; written anew under another name and renamed where a part of it can be left out
or where an append failed (after a failed sync the kernel may have thrown the bytes away, so they
are all written again).
"""

import os
from collections.abc import Sequence
from pathlib import Path

from .errors import TierError
from .tombstones import State, Tombstone, encode_head, encode_records, parse

LOG_NAME = "tombstones.kvs"


class TombstoneLog:
    """The tombstones beside one slab.  One thread at a time.

    ``slab`` is the slab's uuid; ``is_new`` says that the slab was made just now, so that a log
    cannot be missing.  Where ``state`` is DAMAGED, nobody knows what was dropped: the stripe has to
    forget all its frames, durably, and then to call ``keep(())``; until then ``append`` refuses.
    Raises ``TierError`` where the file cannot be read or written.
    """

    def __init__(self, directory: Path, slab: bytes, *, is_new: bool = False) -> None:
        self._path = directory / LOG_NAME
        self._slab = slab
        self._fd = -1
        found = parse(b"" if is_new else _read(self._path), slab)
        self.state = State.WHOLE if is_new else found.state
        self.records = () if is_new else found.records
        self._end, self._seed = found.end, found.seed
        if is_new or self.state is State.TORN:
            self.keep(self.records)

    def append(self, records: Sequence[Tombstone]) -> None:
        """Record drops; when this returns they are on the medium.

        Where it raises, nothing is promised: they may come into force after a restart or not.
        """
        if self.state is State.DAMAGED:
            raise TierError(f"{self._path} is damaged; its stripe has not forgotten its frames yet")
        data, seed = encode_records(records, self._seed)
        if self._fd < 0:
            self.keep((*self.records, *records))
            return
        try:
            _write(self._fd, data, self._end)
            os.fdatasync(self._fd)
        except OSError as exc:
            self.close()  # the next append writes the file anew
            raise TierError(f"cannot append to {self._path}: {exc.strerror}") from exc
        self.records = (*self.records, *records)
        self._end, self._seed = self._end + len(data), seed

    def keep(self, records: Sequence[Tombstone]) -> None:
        """Write the log anew with these records only, durably, and append to it from now on.

        A record may be left out once the headers that it kills are overwritten on every tier and
        every index is synced.
        """
        head, seed = encode_head(self._slab)
        body, seed = encode_records(records, seed)
        self.close()
        try:
            self._fd = _replace(self._path, head + body)
        except OSError as exc:
            raise TierError(f"cannot write {self._path}: {exc.strerror}") from exc
        self.state, self.records = State.WHOLE, tuple(records)
        self._end, self._seed = len(head) + len(body), seed

    def close(self) -> None:
        """Let go of the file; what was appended is on the medium already."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1


def _read(path: Path) -> bytes:
    """The log's bytes, none where there is no file: beside a slab that is not new, damage."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as exc:
        raise TierError(f"cannot read {path}: {exc.strerror}") from exc


def _write(fd: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, at)
        view, at = view[written:], at + written


def _replace(path: Path, data: bytes) -> int:
    """Write a file in one step and return its descriptor."""
    fresh = path.with_suffix(".new")
    fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        _write(fd, data, 0)
        os.fsync(fd)
        fresh.replace(path)
        _sync_directory(path.parent)
    except OSError:
        os.close(fd)
        raise
    return fd


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
