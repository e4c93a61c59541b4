"""What each setting may be: ``KINDS``, one line for each.

A value may come as a TOML value, as text from the environment, or as a Python object; ``parse``
gives what it means, or None where it does not mean anything.
"""

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..compression.codecs import CODECS
from ..eviction.policies import POLICIES
from .units import format_duration, format_size, parse_duration, parse_size

MEMORY_MIN = 1 << 20
"""The smallest host tier in bytes: below it not even one block of most models fits."""

_THREADS_MAX = 64
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
_DIGITS = re.compile(r"\d{1,20}", re.ASCII)
_ONE_SIZE = "a size such as 20GiB, 512MiB or a number of bytes"
_ONE_DURATION = "a duration such as 500ms, 30s, 10m, 2h or a number of seconds"


class Kind(NamedTuple):
    """What one setting may be: in words, as a reader of values, and how a value is shown."""

    expected: str
    parse: Callable[[object], object | None]  # None where the value is not what is expected
    show: Callable[[Any], str] = str


def _size(value: object) -> int | None:
    return parse_size(value) if isinstance(value, str) else _count(value)


def _duration(value: object) -> float | None:
    if isinstance(value, str):
        return parse_duration(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value < math.inf else None


def _count(value: object) -> int | None:
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if value >= 0 else None


def _at_least(least: float, parse: Callable[[object], float | None]) -> Callable[[object], object]:
    def bounded(value: object) -> float | None:
        meant = parse(value)
        return meant if meant is not None and meant >= least else None

    return bounded


def _threads(value: object) -> int | None:
    count = _count(value)
    return count if count is not None and 1 <= count <= _THREADS_MAX else None


def _directory(value: object) -> Path | None:
    if not isinstance(value, str | Path) or not str(value).strip() or "\0" in str(value):
        return None
    try:
        return Path(value).expanduser().absolute()
    except RuntimeError:  # "~name" of nobody
        return None


def _directories(value: object) -> tuple[Path, ...] | None:
    if isinstance(value, str):
        value = [each for each in value.split(os.pathsep) if each]
    if not isinstance(value, Sequence):
        return None
    found = [_directory(each) for each in value]
    result = tuple(each for each in found if each is not None)
    return result if len(set(result)) == len(value) else None


def _one_of(*names: str) -> Callable[[object], str | None]:
    return lambda value: value if isinstance(value, str) and value in names else None


def _level(value: object) -> str | None:
    level = value.upper() if isinstance(value, str) else None
    return level if level in _LEVELS else None


def _show_directories(directories: Sequence[Path]) -> str:
    return os.pathsep.join(map(str, directories)) or "none"


KINDS: Mapping[str, Kind] = {
    "dir": Kind("a directory", _directory),
    "memory": Kind(f"{_ONE_SIZE}, 1MiB or more", _at_least(MEMORY_MIN, _size), format_size),
    "disk": Kind(f"{_ONE_SIZE}, 0 for no disk tier", _size, format_size),
    "stripes": Kind(
        f"different directories, a list in TOML, separated by {os.pathsep!r} in the environment",
        _directories,
        _show_directories,
    ),
    "write": Kind("behind or none", _one_of("behind", "none")),
    "codec": Kind(f"one of {', '.join(CODECS)}", _one_of(*CODECS)),
    "policy": Kind(f"one of {', '.join(POLICIES)}", _one_of(*POLICIES)),
    "ttl": Kind(f"{_ONE_DURATION}, 0 for none", _duration, format_duration),
    "deadline": Kind(f"{_ONE_DURATION}, 1ms or more", _at_least(0.001, _duration), format_duration),
    "readers": Kind(f"a number of threads from 1 to {_THREADS_MAX}", _threads),
    "writers": Kind(f"a number of threads from 1 to {_THREADS_MAX}", _threads),
    "ghosts": Kind("a number of records, 0 for none", _count),
    "direct_io": Kind("auto or off", _one_of("auto", "off")),
    "log_level": Kind(f"one of {', '.join(_LEVELS)}", _level),
}
