"""Looking into a store's directory without taking what serving from it takes.

The slab files keep the size that they have, whatever the settings say, nothing is created, and the
host tier is as large as asked: some frames, not the settings' gigabytes.  The index still is in
memory whole, about 300 bytes for each block.
"""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from .errors import FrameError, TierError
from .setting_kinds import MEMORY_MIN
from .settings import Settings
from .slab import PAGE_BYTES, SLOT_BYTES
from .store import Store
from .superblock import Superblock
from .units import format_size

FEW_FRAMES = 1 << 20
"""Bytes of host memory for those who load nothing."""

_FILES = ("headers.kvs", "pages.kvs")
_HINT = "; name the right one with --dir or KVSTRATA_DIR, or run the program that makes it"


def inspect(
    settings: Settings,
    *,
    host_bytes: int = FEW_FRAMES,
    is_written: bool = False,
    clock: Callable[[], float] = time.time,
) -> Store:
    """Open the store that is in ``settings.dir``; a context manager, as every store.

    ``is_written`` says that blocks are to be saved, which go to disk behind.  Raises SettingsError
    where there is no store, TierError where its slab cannot be understood, and StoreBusyError where
    another process has it.
    """
    share = _slab_bytes(settings)
    as_it_is = replace(
        settings,
        memory=MEMORY_MIN,
        disk=share * len(settings.slab_dirs),
        write="behind" if is_written else "none",
        readers=1,
        writers=1,
    )
    return Store(as_it_is, clock=clock, host_bytes=host_bytes)


def is_vacant(settings: Settings) -> bool:
    """Whether there is nothing of a store in the directories that the settings name."""
    directories = settings.slab_dirs
    return not (settings.dir / "index").exists() and not any(
        _length(directory / name) for directory in directories for name in _FILES
    )


def _slab_bytes(settings: Settings) -> int:
    """Bytes of each slab, which opening with just this size leaves as they are."""
    if not settings.dir.is_dir():
        raise settings.refuse("dir", "the directory of a store, and this is none" + _HINT)
    if missing := _without_slab(settings):
        what = (
            "it has an index and no slab files, so its slab files are elsewhere: name the settings "
            "file that lists its stripes with --config"
            if (settings.dir / "index").is_dir() and not settings.stripes
            else f"there are no slab files in {', '.join(map(str, missing))}"
        )
        raise settings.refuse("dir", f"the directory of a store, and {what}" + _HINT)
    sizes = {directory: _size_of(directory) for directory in settings.slab_dirs}
    if len(set(sizes.values())) > 1:
        shown = ", ".join(f"{path} {format_size(size)}" for path, size in sizes.items())
        raise TierError(
            f"the slab files differ in size: {shown}; the program that uses the store mends that "
            "when it opens it"
        )
    return min(sizes.values())


def _without_slab(settings: Settings) -> list[Path]:
    return [
        directory
        for directory in settings.slab_dirs
        if not all(_length(directory / name) for name in _FILES)
    ]


def _length(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise TierError(f"cannot look at {path}: {error.strerror}") from error


def _size_of(directory: Path) -> int:
    """Bytes of a slab as its superblock says; it was written last, when both files had them."""
    path = directory / "headers.kvs"
    if not os.access(path, os.R_OK | os.W_OK):
        raise TierError(
            f"{path} is not this user's to open; run this as the user whose store it is"
        )
    try:
        with path.open("rb") as file:
            superblock = Superblock.parse(file.read(SLOT_BYTES))
    except OSError as error:
        raise TierError(f"cannot read {path}: {error.strerror}") from error
    except FrameError as error:
        raise TierError(
            f"{path}: {error}; without it no block can be found any more; the program that uses "
            "the store starts it anew, empty, when it opens it"
        ) from error
    return (superblock.slots + 1) * SLOT_BYTES + superblock.pages * PAGE_BYTES
