"""What the commands on a store directory share: opening it, choosing an identity, reading tokens.

No command allocates the memory that serving takes, and none changes the size of what is there
(``kvstore/inspection.py``).
"""

import json
import logging
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ..kvstore.errors import ArgumentError
from ..kvstore.identity import Identity
from ..kvstore.settings import Settings
from ..kvstore.store import Store
from .cli_words import identity_line

Advance = Callable[[int, int], None]
"""Done, in all."""

_SEPARATED = re.compile(r"[\s,]+")
_HEX = re.compile(r"[0-9a-f]{1,64}")


class Where(NamedTuple):
    """Which store is meant, as the command line says it: ``--dir`` and ``--config``."""

    directory: Path | None
    config: Path | None

    def settings(self) -> Settings:
        """The settings in force; a log level that somebody set is in force from here on."""
        settings = Settings.load(self.config, arguments={"dir": self.directory})
        if settings.sources["log_level"] != "default":
            logging.basicConfig(level=settings.log_level)
        return settings


def choose(store: Store, prefix: str) -> Identity:
    """The identity whose root begins with ``prefix``, or the only one there is where it is empty.

    Raises ArgumentError, which lists the identities, where it is not one.
    """
    known = store.identities()
    if not known:
        raise ArgumentError(f"nothing was ever stored in {store.settings.dir}")
    if prefix and not _HEX.fullmatch(prefix.lower()):
        raise ArgumentError(f"--identity {prefix!r} is not the beginning of a root in hexadecimal")
    found = [each for each in known if each.root.hex().startswith(prefix.lower())]
    if len(found) == 1:
        return found[0]
    problem = (
        f"no identity begins with {prefix}"
        if not found
        else f"{len(found)} identities begin with {prefix}"
        if prefix
        else f"the store has {len(found)} identities; say which with --identity"
    )
    lines = "\n".join(f"  {identity_line(each)}" for each in found or known)
    raise ArgumentError(f"{problem}:\n{lines}")


def read_tokens(source: str) -> list[int]:
    """Token numbers from a file, ``-`` for standard input: a JSON list, or integers with space.

    Raises ArgumentError for anything else.
    """
    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8")
    except OSError as error:
        raise ArgumentError(f"the tokens in {source} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ArgumentError(f"the tokens in {source} are no text: {error}") from error
    tokens = _parse_tokens(text.strip())
    if tokens is None:
        raise ArgumentError(
            f"{source} has no tokens: expected a JSON list of token numbers, or token numbers "
            "with white space between them"
        )
    return tokens


def say(*what: RenderableType) -> None:
    """Print for people; what is stored is never taken for markup."""
    console = Console(markup=False, highlight=False)
    for each in what:
        console.print(each, soft_wrap=isinstance(each, str))


def say_json(answer: object) -> None:
    """Print one JSON object."""
    sys.stdout.write(json.dumps(answer, indent=2) + "\n")


@contextmanager
def advancing(words: str) -> Iterator[Advance]:
    """A progress bar on standard error while the block runs; nothing where that is no terminal."""
    console = Console(stderr=True)
    columns = TextColumn(words), BarColumn(), TextColumn("{task.percentage:>3.0f}%")
    with Progress(
        *columns,
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        task = progress.add_task("", total=None)

        def advance(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        yield advance


def _parse_tokens(text: str) -> list[int] | None:
    try:
        found = json.loads(text) if text.startswith("[") else _integers(text)
    except (ValueError, RecursionError):
        return None
    is_list = isinstance(found, list) and found
    return found if is_list and all(type(each) is int for each in found) else None


def _integers(text: str) -> list[int]:
    return [int(each) for each in _SEPARATED.split(text)]
