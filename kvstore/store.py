"""The store: tiers, index, policy and mover, put together, and the verbs that need no identity.

    with Store(Settings.load()) as store:
        space = store.space(identity)

One process has a directory at a time; another one that opens it gets ``StoreBusyError``.
"""

import fcntl
import logging
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from ..compression.codecs import CODECS
from ..eviction.policies import POLICIES
from .breaker import Breaker
from .catalog import Catalog
from .demote import Demotion
from .disk import DiskTier
from .dropping import Dropping, Receipt
from .drops import Drops
from .errors import StoreBusyError, StoreClosedError, TierError
from .files import BlockFile, DirectFile, OpenFile
from .ghosts import Ghosts
from .host import HostTier
from .identity import Identity
from .index import DISK, HOST, TIERS, Index
from .keys import tenant_id
from .layout import Layout
from .mover import Mover
from .recovery import recover
from .residency import Residency
from .settings import Settings
from .slab import PAGE_BYTES, slots_for
from .space import Space
from .stats import Counters, Stats, TierStats
from .stripe import Stripe
from .tombstones import Kind, Tombstone
from .units import format_size

_log = logging.getLogger("kvstrata")

ROW_BYTES = 300
"""What the index takes of the memory budget for one block."""

_SPARE_ROWS = 1024  # blocks that are being admitted have a row before they have a slot
_CATALOG_BYTES = 64 << 20
_CLOSE_S = 20.0


class Store:
    """Tiers under one directory.  Every verb may be called from any thread.

    ``clock`` gives seconds since the epoch; ``open_file`` opens slab files; ``host_fd`` adopts the
    host slab of a dead process.  Raises ``SettingsError`` where the settings do not fit this
    machine and ``StoreBusyError`` where another process has the directory.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        clock: Callable[[], float] = time.time,
        open_file: OpenFile | None = None,
        host_fd: int | None = None,
    ) -> None:
        self.settings = settings or Settings.load()
        self.settings.check()
        self._clock = clock
        self._open_file = open_file or self._direct_file
        self._lock_fd = _lock(self.settings.dir) if self.settings.disk else -1
        share = self.settings.disk // len(self.settings.slab_dirs)
        disk_slots = slots_for(share) * len(self.settings.slab_dirs) if share else 0
        host_bytes = self._host_bytes(disk_slots)
        self.counters = Counters()
        self._host = HostTier(host_bytes, fd=host_fd)
        self._disk = self._open_disk(share)
        self._residency = Residency(
            index=Index(self._host.slab.slots + disk_slots + _SPARE_ROWS),
            host=self._host,
            disk=self._disk,
            policy=POLICIES[self.settings.policy](),
            ghosts=Ghosts(self.settings.ghosts, since=clock(), policy=self.settings.policy),
            counters=self.counters,
            clock=clock,
        )
        drops = Drops(self._disk, _refuge(self._disk))
        self._residency.generation = drops.generation
        self.recovered = recover(self._residency, self._disk, drops.living)
        self._dropping = Dropping(self._residency, drops)
        self._layouts: dict[bytes, Layout] = {}
        self._spaces: dict[bytes, Space] = {}
        self._mover = Mover(
            self._residency,
            demotion=Demotion(
                self._residency,
                self._disk,
                codec=CODECS[self.settings.codec],
                layouts=self._layouts,
            ),
            settle=self._dropping.settle,
            readers=self.settings.readers,
            writers=self.settings.writers,
        )
        self._is_closed = False
        _log.info("opened %s: %d blocks found again", self.settings.dir, self.recovered)

    def space(self, identity: Identity) -> Space:
        """One identity's view; the same object for equal identities."""
        self._check_open()
        space = self._spaces.get(identity.root)
        if space is None:
            space = Space(
                identity,
                self._residency,
                mover=self._mover,
                dropping=self._dropping,
                settings=self.settings,
            )
            self._spaces[identity.root] = space
            self._layouts[identity.root[:16]] = identity.layout
        return space

    def flush(self, timeout_s: float | None = None) -> bool:
        """Return when all that was saved before is on disk and synced.

        False where some of it could not be written (a medium is switched off, or full of leased
        blocks) or the time ran out.
        """
        self._check_open()
        with self._residency.lock:
            last = self._residency.generation
            dirty = self._residency.dirty()
        self._mover.store(dirty, [self._residency.index.generation[row] for row in dirty])
        is_drained = self._mover.drain(timeout_s)
        try:
            self._disk.sync()
        except TierError as error:
            _log.warning("flush: %s", error)
            return False
        with self._residency.lock:
            index = self._residency.index
            return is_drained and not any(
                index.generation[row] <= last for row in self._residency.dirty()
            )

    def expire(self) -> int:
        """Remove what has expired now; how many blocks."""
        with self._residency.lock:
            return self._residency.expire()

    def drop_tenant(self, tenant: str, *, overwrite: bool = False) -> Receipt:
        """Drop everything that a tenant has, of every identity.

        ``overwrite`` zeroes the payload too, which takes as long as writing it did.
        """
        self._check_open()
        subject = tenant_id(tenant)
        residency = self._residency

        def rows() -> list[int]:
            number = residency.tenant_number(subject)
            everything = residency.index.rows()
            here = np.asarray(residency.index.tenant)[everything] == number
            found: list[int] = everything[here].tolist()
            return found

        return self._dropping.drop(
            lambda generation: [Tombstone(Kind.TENANT, subject, generation, self._clock())],
            rows,
            overwrite=overwrite,
        )

    def stats(self) -> Stats:
        """The store at this moment."""
        self._check_open()
        residency = self._residency
        with residency.lock:
            host = self._host.slab
            tiers = [TierStats(TIERS[HOST], *residency.usage(HOST, [host]), degraded="")]
            if self._disk.stripes:
                slabs = [stripe.slab for stripe in self._disk.stripes]
                degraded = "; ".join(
                    f"{stripe.directory}: {stripe.breaker.reason}"
                    for stripe in self._disk.stripes
                    if stripe.breaker.is_open
                )
                tiers.append(TierStats(TIERS[DISK], *residency.usage(DISK, slabs), degraded))
            return Stats(
                tiers=tuple(tiers),
                blocks=residency.index.live,
                dirty_blocks=len(residency.dirty()),
                pinned_blocks=len(residency.pins),
                ghosts=len(residency.ghosts),
                counts=asdict(self.counters),
            )

    def audit(self) -> None:
        """Raise AssertionError unless free and used add up on every tier and parents are there."""
        with self._residency.lock:
            self._residency.audit()

    def close(self) -> None:
        """Write what is dirty, sync, and let go of the directory.  Idempotent."""
        if self._is_closed:
            return
        if self.settings.write == "behind" and self._disk.takes_writes:
            self.flush(_CLOSE_S)
        self._is_closed = True
        self._mover.close()
        self._disk.close()
        self._host.close()
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
        _log.info("closed %s", self.settings.dir)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._is_closed:
            raise StoreClosedError("the store was closed")

    def _direct_file(self, path: Path) -> BlockFile:
        return DirectFile(path, direct=self.settings.direct_io == "auto")

    def _host_bytes(self, disk_slots: int) -> int:
        """The memory setting less what the index may take of it."""
        rows = disk_slots + slots_for(self.settings.memory) + _SPARE_ROWS
        if 2 * rows * ROW_BYTES > self.settings.memory:
            raise self.settings.refuse(
                "memory",
                f"at least {format_size(2 * rows * ROW_BYTES)}: the index of "
                f"{format_size(self.settings.disk)} of disk takes half of that; give less disk or "
                "more memory",
            )
        return (self.settings.memory - rows * ROW_BYTES) // PAGE_BYTES * PAGE_BYTES

    def _open_disk(self, share: int) -> DiskTier:
        if not share:
            return DiskTier([], None)
        directories = self.settings.slab_dirs
        slots = slots_for(share) * len(directories)
        catalog = _open_catalog(self.settings.dir / "index", _CATALOG_BYTES + 2048 * slots)
        facts = catalog.facts()
        store = facts.get(b"store") or os.urandom(16)
        catalog.state({b"store": store})
        stripes = [
            Stripe(
                directory,
                share,
                store=store,
                open_file=self._open_file,
                breaker=Breaker(str(directory), self._clock),
            )
            for directory in directories
        ]
        return DiskTier(stripes, catalog)


def _refuge(disk: DiskTier) -> Path:
    """Where drops are remembered while no stripe can be reached: the XDG state directory."""
    state = Path(os.environ.get("XDG_STATE_HOME", ""))
    base = state if state.is_absolute() else Path("~/.local/state").expanduser()
    store = disk.stripes[0].superblock.store.hex() if disk.stripes else "memory"
    return base / "kvstrata" / f"{store}.kvs"


def _lock(directory: Path) -> int:
    """Take the directory for this process; the lock goes with the process."""
    fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        owner = os.pread(fd, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(fd)
        raise StoreBusyError(
            f"{directory} is in use by process {owner}; stop it, or set dir to another directory"
        ) from error
    os.ftruncate(fd, 0)
    os.pwrite(fd, b"%d\n" % os.getpid(), 0)
    return fd


def _open_catalog(directory: Path, map_bytes: int) -> Catalog:
    try:
        return Catalog(directory, map_bytes=map_bytes)
    except TierError as error:
        _log.warning("%s; it is made anew from the slabs' headers", error)
        shutil.rmtree(directory)
        return Catalog(directory, map_bytes=map_bytes)
