"""What a user may set, and whether it fits this machine.

A setting comes from its default, a TOML file, the environment (``KVSTRATA_MEMORY=8GiB``) or an
argument; the later one of these wins.  A name that is unknown or a value that means nothing stops
the program with the name, the value, what was expected and where it came from.

    settings = Settings.load(Path("kvstrata.toml"), arguments={"disk": "50GiB"})
    settings.check()

Every value, whichever way it comes, goes through ``KINDS``, which says what each setting may be.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple

from .errors import SettingsError
from .machine import (
    DiskRoom,
    Limit,
    disk_room,
    make_private_dir,
    memory_limit,
    physical_memory,
)
from .setting_kinds import KINDS, MEMORY_MIN
from .setting_sources import read_sources
from .units import format_size


class Setting(NamedTuple):
    """One setting as people read it."""

    name: str
    value: str
    source: str  # "default", "argument", "environment variable NAME" or "FILE, line N"


@dataclass(frozen=True, slots=True)
class Settings:
    """How one store is set up.  Sizes are bytes, durations seconds.

    ``dir`` holds the index and, unless ``stripes`` names directories of their own for them, the
    slab files; ``disk`` is the bytes of all slab files together, 0 for no disk tier.  ``write``
    says whether blocks go to disk behind the save that brought them, or not at all.  ``ttl`` is
    what a save gets that asks for none, 0 for never; ``deadline`` is how long a load may take
    before it counts as failed.  ``readers`` and ``writers`` say how many
    I/Os go on at once in each slab file; ``ghosts`` is how many blocks that left are
    remembered, to explain why they are gone.

    Raises ``SettingsError`` for a value that means nothing.
    """

    dir: Path = field(default_factory=lambda: default_dir(os.environ))
    memory: int = field(default_factory=lambda: default_memory(memory_limit(physical_memory())))
    disk: int = 10 << 30
    stripes: tuple[Path, ...] = ()
    write: Literal["behind", "none"] = "behind"
    codec: str = "raw"
    policy: str = "lru"
    ttl: float = 0.0
    deadline: float = 30.0
    readers: int = 4
    writers: int = 1
    ghosts: int = 65_536
    direct_io: Literal["auto", "off"] = "auto"
    log_level: str = "INFO"
    sources: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, kind in KINDS.items():
            value = getattr(self, name)
            meant = kind.parse(value)
            if meant is None:
                source = self.sources.get(name, "argument")
                raise SettingsError(f"{name} = {value!r} ({source}): expected {kind.expected}")
            object.__setattr__(self, name, meant)

    @classmethod
    def load(
        cls,
        file: Path | None = None,
        *,
        environ: Mapping[str, str] | None = None,
        arguments: Mapping[str, object] | None = None,
    ) -> "Settings":
        """Settings from ``file``, over it the environment, over it ``arguments``.

        ``environ`` None means the process's own; an argument that is None was not given.
        Raises ``SettingsError`` for a file that cannot be read, and for unknown or bad settings.
        """
        environ = os.environ if environ is None else environ
        given = read_sources(KINDS, file=file, environ=environ, arguments=arguments or {})
        values: dict[str, Any] = {name: each.value for name, each in given.items()}
        if "dir" not in values:
            values["dir"] = default_dir(environ)
        sources = dict.fromkeys(KINDS, "default")
        return cls(**values, sources=sources | {name: each.source for name, each in given.items()})

    @property
    def slab_dirs(self) -> tuple[Path, ...]:
        """The directories that hold a slab file each, in stripe order."""
        return self.stripes or (self.dir,)

    def describe(self) -> Iterator[Setting]:
        """Every setting in the words of people, and where it came from."""
        for name, kind in KINDS.items():
            yield Setting(name, kind.show(getattr(self, name)), self._source(name))

    def check(self) -> None:
        """Hold the sizes against this machine, then create ``dir``, for its owner only.

        Raises ``SettingsError`` with the figures where a size is beyond what there is, and where
        ``dir`` cannot be created.
        """
        self.check_memory(memory_limit(physical_memory()))
        self.check_disk()
        make_private_dir(self.dir)

    def check_memory(self, limit: Limit) -> None:
        """Raise ``SettingsError`` where ``memory`` is beyond what this process may use."""
        if self.memory > limit.nbytes:
            raise self.refuse(
                "memory",
                f"no more than the {format_size(limit.nbytes)} that this process may use "
                f"({limit.origin}), with the engine in it; here {default_memory(limit)} bytes "
                f"({format_size(default_memory(limit))}) is the default",
            )

    def check_disk(self, room_of: Callable[[Path], DiskRoom] = disk_room) -> None:
        """Raise ``SettingsError`` where a file system cannot hold its slab files.

        What slab files of an earlier start take is written over, so it counts as free.
        """
        rooms = {directory: room_of(directory) for directory in self.slab_dirs}
        share = self.disk // len(rooms)
        for device in {room.device for room in rooms.values()}:
            here = {path: room for path, room in rooms.items() if room.device == device}
            free = min(room.free for room in here.values())
            occupied = sum(min(room.occupied, share) for room in here.values())
            if share * len(here) > free + occupied:
                raise self.refuse(
                    "disk",
                    f"no more than the file system can give: {', '.join(map(str, here))} would "
                    f"hold {format_size(share * len(here))} of it, but {format_size(free)} are "
                    f"free and {format_size(occupied)} in slab files already; 0 means no disk "
                    "tier, and dir and stripes name other places",
                )

    def refuse(self, name: str, expected: str) -> SettingsError:
        """The error to raise where only the caller can tell that a value cannot be meant."""
        value = KINDS[name].show(getattr(self, name))
        return SettingsError(f"{name} = {value} ({self._source(name)}): expected {expected}")

    def _source(self, name: str) -> str:
        if name in self.sources:
            return self.sources[name]
        return "default" if getattr(self, name) == _default(name) else "argument"


def default_dir(environ: Mapping[str, str]) -> Path:
    """``kvstrata`` in the user's cache directory, as the XDG base directory specification says.

    Raises ``SettingsError`` for a user without a home.
    """
    cache = Path(environ.get("XDG_CACHE_HOME", ""))
    try:
        return (cache if cache.is_absolute() else Path("~/.cache").expanduser()) / "kvstrata"
    except RuntimeError as exc:
        raise SettingsError(
            "dir (default): expected a home directory to keep the cache under, and this user has "
            "none; set dir, KVSTRATA_DIR or XDG_CACHE_HOME"
        ) from exc


def default_memory(limit: Limit) -> int:
    """The lesser of 4 GiB and a quarter of what this process may use, never below the minimum."""
    return max(MEMORY_MIN, min(4 << 30, limit.nbytes // 4))


def _default(name: str) -> object:
    found = next(each for each in fields(Settings) if each.name == name)
    return found.default if found.default_factory is MISSING else found.default_factory()
