"""Fixtures of the command line's tests."""

import os
from pathlib import Path

import pytest

from tests.cli.kit import CommandLine, family, fill


@pytest.fixture(autouse=True)
def _plain_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings of whoever runs the tests, a wide terminal, a state directory of the test's."""
    for name in [name for name in os.environ if name.startswith("KVSTRATA_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("COLUMNS", "160")


@pytest.fixture
def kvstrata(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """The command."""
    return CommandLine(monkeypatch, capsys)


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A store with one identity and three prompts, eleven blocks."""
    fill(tmp_path / "store", family())
    return tmp_path / "store"
