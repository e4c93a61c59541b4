"""What this machine gives: memory to this process, disk to a directory.

A container sees the whole machine's RAM but is killed at its cgroup's limit, and a cgroup is bound
by every one above it, so the limit is the smallest of all of them.  Both generations of cgroups
are read; where a container sees its own cgroup mounted as the root, that is the last one looked at.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from .errors import SettingsError

_SLABS = ("*.kvs", "*/*.kvs")


class Limit(NamedTuple):
    """The most memory that this process may use, and what says so."""

    nbytes: int
    origin: str


class DiskRoom(NamedTuple):
    """What one file system can give to the slab files of one directory."""

    device: int  # st_dev: directories with the same one share ``free``
    free: int  # bytes that an unprivileged user may still take
    occupied: int  # bytes that slab files in the directory hold already


def physical_memory() -> int:
    """Bytes of RAM in the machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def memory_limit(ram: int, root: Path = Path("/")) -> Limit:
    """The lesser of ``ram`` bytes and every cgroup limit over this process.

    ``root`` is the folder that holds ``proc`` and ``sys``.
    """
    limits = [Limit(ram, "this machine's RAM")]
    for path in _limit_files(root):
        try:
            text = path.read_text().strip()
        except OSError:  # this level has no limit, or is not ours to see
            continue
        if text.isdigit():
            limits.append(Limit(int(text), str(path)))
    return min(limits)


def disk_room(directory: Path) -> DiskRoom:
    """What the file system under ``directory``, which need not exist yet, can give it."""
    existing = next(path for path in (directory, *directory.parents) if os.path.exists(path))
    status = os.statvfs(existing)
    slabs = [slab for pattern in _SLABS for slab in directory.glob(pattern)]
    occupied = sum(slab.stat().st_blocks * 512 for slab in slabs)
    return DiskRoom(existing.stat().st_dev, status.f_bavail * status.f_frsize, occupied)


def make_private_dir(directory: Path) -> None:
    """Create a directory, and what is missing above it, readable by its owner only.

    KV caches give away the text they were computed from.  A directory that is there is left as it
    is.  Raises ``SettingsError`` where it cannot be created.
    """
    missing = [path for path in (directory, *directory.parents) if not os.path.lexists(path)]
    try:
        for path in reversed(missing):
            path.mkdir(mode=0o700, exist_ok=True)
    except OSError as exc:
        raise SettingsError(
            f"the directory {directory} cannot be created ({exc.strerror}); "
            "create it for this user, or name another one"
        ) from exc
    if not directory.is_dir():
        raise SettingsError(f"{directory} is no directory; name another one, or move the file away")


def _limit_files(root: Path) -> Iterator[Path]:
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # no Linux: only the RAM bounds us
        return
    groups = root / "sys/fs/cgroup"
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            yield from _levels(groups, path, "memory.max")
            yield from _levels(groups / "unified", path, "memory.max")
        elif "memory" in controllers.split(","):
            yield from _levels(groups / "memory", path, "memory.limit_in_bytes")


def _levels(mount: Path, path: str, name: str) -> Iterator[Path]:
    names = [part for part in path.split("/") if part not in ("", "..")]
    for depth in range(len(names), -1, -1):
        yield mount.joinpath(*names[:depth], name)
