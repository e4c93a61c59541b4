"""The disk tier's index on disk: frame id to record, in LMDB, written behind and never on the way.

The index in memory is what the store reads; this is its persistent copy, so that a restart reads
168 bytes for each block and not its header.  Changes are queued and committed in batches without
sync (2 us each); a stale catalog is harmless, because a frame is believed only when its header on
the slab says the same.  LMDB holds the index and never the values: as a value store its puts go
from 19 ms to 1.4 s as its free list grows.

Any thread may call.
"""

import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import lmdb

from .errors import TierError

_TICK_RECORDS = 4096


class Catalog:
    """Records of the disk tier by frame id, and a few facts about the store by name.

    Raises TierError where LMDB cannot open the directory; the caller deletes it and rebuilds.
    """

    def __init__(self, directory: Path, *, map_bytes: int) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._committing = threading.Lock()
        self._queued: dict[bytes, bytes | None] = {}
        try:
            self._env = lmdb.open(
                str(directory),
                map_size=map_bytes,
                max_dbs=2,
                mode=0o600,
                sync=False,
                metasync=False,
            )
            self._check_length(directory)
            self._frames = self._env.open_db(b"frames")
            self._facts = self._env.open_db(b"facts")
        except lmdb.Error as error:
            raise TierError(f"the index in {directory} cannot be opened: {error}") from error

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

    def scan(self) -> Iterator[tuple[bytes, bytes]]:
        """Every committed record; raises TierError where the file is damaged."""
        try:
            with self._env.begin(db=self._frames, buffers=False) as txn:
                yield from txn.cursor()
        except lmdb.Error as error:
            raise TierError(f"the index cannot be read: {error}") from error

    def clear(self) -> None:
        """Forget every record."""
        with self._env.begin(write=True) as txn:
            txn.drop(self._frames, delete=False)

    def facts(self, prefix: bytes = b"") -> dict[bytes, bytes]:
        """Facts whose names begin with ``prefix``."""
        with self._env.begin(db=self._facts) as txn:
            return {bytes(k): bytes(v) for k, v in txn.cursor() if k.startswith(prefix)}

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
        self._env.close()

    def _check_length(self, directory: Path) -> None:
        """A file that is cut off behind its mapped pages would end the process with a signal."""
        info, page = self._env.info(), self._env.stat()["psize"]
        length = (directory / "data.mdb").stat().st_size
        if length < info["last_pgno"] * page:
            self._env.close()
            raise TierError(f"the index in {directory} is cut off at {length} bytes")

    def _write(self, items: list[tuple[bytes, bytes | None]]) -> None:
        with self._env.begin(write=True, db=self._frames) as txn:
            for fid, record in items:
                if record is None:
                    txn.delete(fid)
                else:
                    txn.put(fid, record)
