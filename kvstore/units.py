"""Sizes and durations as people write them: ``20GiB``, ``1.5 GB``, ``500ms``, ``2h``.

Sizes take a binary unit (KiB, MiB, GiB, TiB), an SI unit (kB, MB, GB, TB) or none for bytes;
``20G`` and ``20gb`` are refused because they leave open which is meant.  Durations take ms, s, m,
h or d, or none for seconds.
"""

import re
from decimal import Decimal

_SIZE_UNITS = {
    "": 1,
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "TiB": 1 << 40,
}
_DURATION_UNITS = {"": 1.0, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_NUMBER_AND_UNIT = re.compile(r"(\d{1,20}(?:\.\d{1,9})?)\s*([A-Za-z]*)", re.ASCII)


def parse_size(text: str) -> int | None:
    """Bytes, rounded down; None where the text is no size."""
    match = _NUMBER_AND_UNIT.fullmatch(text.strip())
    if match is None or match[2] not in _SIZE_UNITS:
        return None
    return int(Decimal(match[1]) * _SIZE_UNITS[match[2]])


def parse_duration(text: str) -> float | None:
    """Seconds; None where the text is no duration."""
    match = _NUMBER_AND_UNIT.fullmatch(text.strip())
    if match is None or match[2] not in _DURATION_UNITS:
        return None
    return float(match[1]) * _DURATION_UNITS[match[2]]


def format_size(nbytes: int) -> str:
    """A size for people, in the largest binary unit that leaves at least 1: ``1.5 GiB``."""
    unit = next((name for name in ("TiB", "GiB", "MiB", "KiB") if nbytes >= _SIZE_UNITS[name]), "B")
    number = f"{nbytes / _SIZE_UNITS[unit]:.1f}".removesuffix(".0")
    return f"{number} {unit}"


def format_duration(seconds: float) -> str:
    """A duration for people, in the largest unit that leaves at least 1: ``2 h``, ``500 ms``."""
    unit = next((name for name in "dhms" if seconds >= _DURATION_UNITS[name]), "ms")
    return f"{round(seconds / _DURATION_UNITS[unit], 3):g} {unit if seconds else 's'}"
