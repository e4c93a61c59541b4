"""What the tests of the command line and of bundles share: a store on disk, and the command."""

import io
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import pytest

from kvstrata.kvstore.identity import Identity
from kvstrata.kvstore.layout import Layout
from kvstrata.kvstore.settings import Settings
from kvstrata.kvstore.store import Store
from kvstrata.server.__main__ import main
from tests.store.kit import FULL, MIB, KeyedPages, identity, prompt, smooth

SRC = Path(__file__).parents[2] / "src"


class Done(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def answer(self) -> dict[str, object]:
        """The JSON object that was printed."""
        return cast(dict[str, object], json.loads(self.out))


class CommandLine:
    """Runs ``kvstrata`` in this process, through the entry point that users have."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *arguments: object, stdin: str = "") -> Done:
        """Run one command to its end."""
        self._monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        out, err = self._capsys.readouterr()
        return Done(int(ended.value.code or 0), out, err)


def settings(directory: Path, *, codec: str = "raw", disk: int = 32 * MIB) -> Settings:
    """A small store's settings."""
    return Settings(dir=directory, memory=8 * MIB, disk=disk, codec=codec)


def fill(
    directory: Path,
    prompts: Sequence[Sequence[int]],
    *,
    who: Identity | None = None,
    codec: str = "raw",
    tags: Iterable[str] = (),
) -> None:
    """Save prompts into the store in a directory, which is made where there is none."""
    with Store(settings(directory, codec=codec)) as store:
        space = store.space(who or identity())
        for tokens in prompts:
            space.save(tokens, pages(store, tokens, who=who), tags=tags)
            assert store.flush()


def pages(store: Store, tokens: Sequence[int], *, who: Identity | None = None) -> KeyedPages:
    """What an engine computed for a prompt; compressible, so that an encoder has what to do."""
    return KeyedPages(store.space(who or identity()), tokens, fill=smooth)


def restored(directory: Path, tokens: Sequence[int], *, who: Identity | None = None) -> int:
    """Restore a prompt and compare every byte; the tokens that were restored."""
    with Store(settings(directory)) as store:
        space = store.space(who or identity())
        found = pages(store, tokens, who=who)
        with space.hold(space.match(tokens)) as hit:
            length = hit.load(found)
            found.check(length, hit.fidelity)
        return length


def family(layout: Layout = FULL) -> list[list[int]]:
    """Three prompts: six blocks, a branch that leaves them after four, and two of their own."""
    first = prompt(1, 6, layout=layout)
    branch = prompt(2, 3, layout=layout, after=first[: 4 * layout.block_tokens])
    return [first, branch, prompt(3, 2, layout=layout)]


def write_tokens(path: Path, tokens: Sequence[int]) -> Path:
    """A file of token numbers, as JSON."""
    path.write_text(json.dumps(list(tokens)))
    return path
