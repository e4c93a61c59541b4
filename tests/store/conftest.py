"""Fixtures of the store's tests."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.store.kit import Clock, Scene


@pytest.fixture(autouse=True)
def _own_state_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drops that no stripe can take are remembered under the test's directory."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still until it is told."""
    return Clock()


@pytest.fixture
def scene(tmp_path: Path, clock: Clock) -> Scene:
    """8 MiB of memory over 32 MiB of disk."""
    return Scene(tmp_path / "store", clock)


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads take turns after every step, in the middle of everything."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def takes_long(is_long: bool) -> bool:
    """The long mode: ``--long``, or ``LONG=1`` in the environment."""
    return is_long or os.environ.get("LONG", "") not in ("", "0")
