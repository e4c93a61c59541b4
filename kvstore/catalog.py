"""The disk tier's index on disk: frame id to record, in LMDB, written behind and never on the way.

The index in memory is what the store reads; this is its persistent copy, so that a restart reads
168 bytes for each block and not its header.  Changes are queued and committed in batches without
sync (2 us each); a stale catalog is harmless, because a frame is believed only when its header on
the slab says the same.  LMDB holds the index and never the values: as a value store its puts go
from 19 ms to 1.4 s as its free list grows.

Any thread may call.
"""

import logging
import threading
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

import lmdb

from .errors import TierError
from .mark import Mark

_log = logging.getLogger("kvstrata")

_TICK_RECORDS = 4096
_SCAN_RECORDS = 8192
_FILES = ("data.mdb", "lock.mdb")


class Catalog:
    """Records of the disk tier by frame id, and a few facts about the store by name.

    Raises TierError where LMDB cannot open the directory; the caller deletes it and rebuilds.
    """

    def __init__(self, directory: Path, *, map_bytes: int) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = directory
        self._map_bytes = map_bytes
        self._lock = threading.Lock()
        self._committing = threading.Lock()
        self._queued: dict[bytes, bytes | None] = {}
        self._mark = Mark(directory)
        if not self._mark.is_trusted:
            _log.warning("%s was not closed: it is made anew from the slabs' headers", directory)
            self._delete()
        self._mark.set("reading")
        self._open()

    def believe(self) -> None:
        """All of it was read, and the process is still there."""
        self._mark.set("serving")

    def renew(self) -> None:
        """Put an empty index in the place of one that is damaged."""
        self._env.close()
        self._delete()
        self._open()

    def put(self, fid: bytes, record: bytes) -> None:
        """Queue a record."""
        with self._lock:
            self._queued[fid] = record

    def delete(self, fid: bytes) -> None:
        """Queue the end of a record."""
        with self._lock:
            self._queued[fid] = None

    @property
    def has_queued(self) -> bool:
        """Whether ``commit`` has something to do."""
        return bool(self._queued)

    def commit(self) -> None:
        """Write what is queued, in transactions short enough that nobody waits for them."""
        with self._committing:  # a second caller returns when the first one's batch is in, too
            with self._lock:
                queued, self._queued = self._queued, {}
            items = list(queued.items())
            try:
                for start in range(0, len(items), _TICK_RECORDS):
                    self._write(items[start : start + _TICK_RECORDS])
            except lmdb.Error as error:
                with self._lock:
                    self._queued = {**queued, **self._queued}
                raise TierError(f"the index cannot be written: {error}") from error

    def sync(self) -> None:
        """Return when all that was committed is on disk."""
        try:
            self._env.sync(True)
        except lmdb.Error as error:
            raise TierError(f"the index cannot be synced: {error}") from error

    def scan(self) -> Iterator[tuple[list[bytes], list[bytes]]]:
        """Every committed record, in batches of frame ids and of values.

        Raises TierError where the file is damaged.
        """
        try:
            with self._env.begin(db=self._frames, buffers=False) as txn:
                yield from _batches(iter(txn.cursor()))
        except lmdb.Error as error:
            raise TierError(f"the index cannot be read: {error}") from error

    def facts(self, prefix: bytes = b"") -> dict[bytes, bytes]:
        """Facts whose names begin with ``prefix``; raises TierError where the file is damaged."""
        try:
            with self._env.begin(db=self._facts) as txn:
                return {bytes(k): bytes(v) for k, v in txn.cursor() if k.startswith(prefix)}
        except lmdb.Error as error:
            raise TierError(f"the index cannot be read: {error}") from error

    def state(self, facts: Mapping[bytes, bytes]) -> None:
        """Write facts at once."""
        try:
            with self._env.begin(write=True, db=self._facts) as txn:
                for name, value in facts.items():
                    txn.put(name, value)
        except lmdb.Error as error:
            raise TierError(f"the index cannot be written: {error}") from error

    def close(self) -> None:
        """Close LMDB; what is queued and not committed is lost, as in a crash."""
        try:
            self.sync()
            self._mark.clear()
        except TierError as error:
            _log.warning("%s", error)
        self._env.close()

    def _open(self) -> None:
        directory = self._directory
        try:
            self._env = lmdb.open(
                str(directory),
                map_size=self._map_bytes,
                max_dbs=2,
                mode=0o600,
                sync=False,
                metasync=False,
            )
        except lmdb.Error as error:
            raise TierError(f"the index in {directory} cannot be opened: {error}") from error
        try:
            self._check_length(directory)
            self._frames = self._env.open_db(b"frames")
            self._facts = self._env.open_db(b"facts")
            self.facts()
        except (lmdb.Error, TierError) as error:
            self._env.close()
            raise TierError(f"the index in {directory} cannot be opened: {error}") from error

    def _delete(self) -> None:
        for name in _FILES:
            (self._directory / name).unlink(missing_ok=True)

    def _check_length(self, directory: Path) -> None:
        """A file that is cut off behind its mapped pages would end the process with a signal."""
        info, page = self._env.info(), self._env.stat()["psize"]
        length = (directory / "data.mdb").stat().st_size
        if length < info["last_pgno"] * page:
            raise TierError(f"it is cut off at {length} bytes")

    def _write(self, items: list[tuple[bytes, bytes | None]]) -> None:
        with self._env.begin(write=True, db=self._frames) as txn:
            for fid, record in items:
                if record is None:
                    txn.delete(fid)
                else:
                    txn.put(fid, record)


def _batches(
    records: Iterator[tuple[bytes, bytes]],
) -> Iterator[tuple[list[bytes], list[bytes]]]:
    while True:
        fids, values = [], []
        for fid, value in islice(records, _SCAN_RECORDS):
            fids.append(fid)
            values.append(value)
        if not fids:
            return
        yield fids, values
