"""Where settings come from: a TOML file, the environment, arguments.

Each source is read into name -> (value, where it stood); what the names and values may be is known
to ``settings.py``.  The file is flat: one ``name = value`` for each setting, no tables.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from .errors import SettingsError

PREFIX = "KVSTRATA_"


class Given(NamedTuple):
    """A value that somebody set, not judged yet, and where it stood."""

    value: object
    source: str


def read_sources(
    known: Iterable[str],
    *,
    file: Path | None,
    environ: Mapping[str, str],
    arguments: Mapping[str, object],
) -> dict[str, Given]:
    """What is set by ``file``, over it by ``environ``, over it by ``arguments``, by name.

    An argument that is None was not given.  Raises ``SettingsError`` for a name that is not among
    ``known`` and for a file that cannot be read.
    """
    layers = [] if file is None else [_from_file(file)]
    layers += [_from_environ(environ), _from_arguments(arguments)]
    names = sorted(known)
    result: dict[str, Given] = {}
    for layer in layers:
        for name, given in layer.items():
            if name not in names:
                raise SettingsError(_unknown(name, given, names))
        result |= layer
    return result


def _from_file(file: Path) -> dict[str, Given]:
    try:
        text = file.read_text(encoding="utf-8")
        table = tomllib.loads(text)
    except OSError as exc:
        raise SettingsError(f"the settings file {file} cannot be read: {exc.strerror}") from exc
    except ValueError as exc:  # no UTF-8, or no TOML; the message has line and column
        raise SettingsError(f"the settings file {file} is no TOML: {exc}") from exc
    return {name: Given(value, _where(file, text, name)) for name, value in table.items()}


def _from_environ(environ: Mapping[str, str]) -> dict[str, Given]:
    result = {}
    for variable, value in environ.items():
        if variable.startswith(PREFIX):
            name = variable.removeprefix(PREFIX)
            # Of KVSTRATA_DISK and KVSTRATA_disk only one can be meant.
            name = name.lower() if name == name.upper() else variable
            result[name] = Given(value, f"environment variable {variable}")
    return result


def _from_arguments(arguments: Mapping[str, object]) -> dict[str, Given]:
    return {
        name: Given(value, "argument") for name, value in arguments.items() if value is not None
    }


def _where(file: Path, text: str, name: str) -> str:
    """File and line of a top-level name, which the parser does not tell."""
    stands = re.compile(rf"""\s*\[*\s*["']?{re.escape(name)}["']?\s*[=.\]]""")
    for number, line in enumerate(text.splitlines(), start=1):
        if stands.match(line):
            return f"{file}, line {number}"
    return str(file)


def _unknown(name: str, given: Given, known: list[str]) -> str:
    close = get_close_matches(name.removeprefix(PREFIX).lower(), known, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return (
        f"unknown setting {name} = {given.value!r} ({given.source}): {hint}"
        f"the settings are {', '.join(known)}"
    )
