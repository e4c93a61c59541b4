"""How a store comes up: its directory locked, its slabs sized and opened.

Each function answers with something that is ready, or raises with nothing left behind.
"""

import fcntl
import logging
import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from .breaker import Breaker
from .catalog import Catalog
from .disk import DiskTier
from .errors import FrameError, StoreBusyError, TierError
from .files import OpenFile
from .host import HostTier
from .settings import Settings
from .slab import PAGE_BYTES, SLOT_BYTES, slots_for
from .stripe import Stripe
from .superblock import Superblock
from .units import format_size

_log = logging.getLogger("kvstrata")

ROW_BYTES = 300
"""What the index takes of the memory budget for one block."""
SPARE_ROWS = 1024
"""Blocks that are being admitted have a row before they have a slot."""

_OVERHEAD_BYTES = 6 << 20  # threads' stacks, what they encode into, LMDB's map
_CATALOG_BYTES = 64 << 20
_RECORD_BYTES = 2048  # room in the catalog for one frame, most of it for LMDB's old pages


def disk_slots(settings: Settings) -> int:
    """Frames that the disk tier has room for."""
    share = _share(settings)
    return slots_for(share) * len(settings.slab_dirs) if share else 0


def open_host(settings: Settings, fd: int | None, nbytes: int | None = None) -> HostTier:
    """The host tier in what the index leaves of the memory setting; ``fd`` adopts a slab.

    ``nbytes`` gives the host tier just that much, whatever the setting says.
    """
    if nbytes is not None:
        return HostTier(nbytes, fd=fd)
    rows = disk_slots(settings) + slots_for(settings.memory) + SPARE_ROWS
    if 2 * rows * ROW_BYTES > settings.memory:
        raise settings.refuse(
            "memory",
            f"at least {format_size(2 * rows * ROW_BYTES)}: the index of "
            f"{format_size(settings.disk)} of disk takes half of that; give less disk or more "
            "memory",
        )
    left = settings.memory - rows * ROW_BYTES - min(_OVERHEAD_BYTES, settings.memory // 12)
    return HostTier(left // PAGE_BYTES * PAGE_BYTES, fd=fd)


def open_disk(settings: Settings, open_file: OpenFile, clock: Callable[[], float]) -> DiskTier:
    """The disk tier with one stripe in each of its directories; none where ``disk`` is 0."""
    share = _share(settings)
    if not share:
        return DiskTier([], None)
    with ExitStack() as undo:
        catalog = _open_catalog(settings)
        undo.callback(catalog.close)
        store = catalog.facts().get(b"store") or _store_of(settings) or os.urandom(16)
        catalog.state({b"store": store})
        stripes = []
        for directory in settings.slab_dirs:
            breaker = Breaker(str(directory), clock)
            stripe = Stripe(
                directory,
                share,
                store=store,
                open_file=open_file,
                breaker=breaker,
                writers=settings.writers,
            )
            undo.callback(stripe.close)
            stripes.append(stripe)
        disk = DiskTier(stripes, catalog, is_written=settings.write == "behind")
        undo.pop_all()
    return disk


def lock_directory(directory: Path) -> int:
    """Take the directory for this process; the lock goes with the descriptor or the process."""
    try:
        fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise TierError(f"cannot take {directory} for this process: {error.strerror}") from error
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


def refuge(disk: DiskTier) -> Path:
    """Where drops are remembered while no stripe can be reached: the XDG state directory."""
    state = Path(os.environ.get("XDG_STATE_HOME", ""))
    base = state if state.is_absolute() else Path("~/.local/state").expanduser()
    store = disk.stripes[0].superblock.store.hex() if disk.stripes else "memory"
    return base / "kvstrata" / f"{store}.kvs"


def _share(settings: Settings) -> int:
    return settings.disk // len(settings.slab_dirs)


def _store_of(settings: Settings) -> bytes:
    """The store's uuid as a slab has it, by which it finds its refuge when the index is lost."""
    for directory in settings.slab_dirs:
        try:
            with (directory / "headers.kvs").open("rb") as file:
                return Superblock.parse(file.read(SLOT_BYTES)).store
        except (OSError, FrameError) as error:
            _log.debug("%s does not name its store: %s", directory, error)
    return b""


def _open_catalog(settings: Settings) -> Catalog:
    directory = settings.dir / "index"
    map_bytes = _CATALOG_BYTES + _RECORD_BYTES * disk_slots(settings)
    try:
        return Catalog(directory, map_bytes=map_bytes)
    except TierError as error:
        _log.warning("%s; it is made anew from the slabs' headers", error)
        shutil.rmtree(directory)
        return Catalog(directory, map_bytes=map_bytes)
