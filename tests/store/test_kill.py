"""A process that is killed at any moment leaves nothing torn, loses nothing that was flushed and
brings back nothing that was dropped.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.store.churn import BLOCKS, NAMES, scene
from tests.store.kit import identity, prompt, restore, save

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent


@dataclass
class Ledger:
    """What may be relied on after a kill, by prompt."""

    flushed: dict[int, int] = field(default_factory=dict)  # blocks that must be there
    dropped: set[int] = field(default_factory=set)  # prompts that must not
    wrong: list[str] = field(default_factory=list)

    def take(self, line: str) -> None:
        """Enter what the process said."""
        word, _, rest = line.partition(" ")
        if word == "save":
            self.dropped.discard(int(rest.split()[0]))
        elif word == "flush":
            for each in rest.split():
                name, blocks = map(int, each.split(":"))
                self.flushed[name] = max(blocks, self.flushed.get(name, 0))
        elif word == "drop":
            self.flushed.pop(int(rest), None)
        elif word == "gone":
            self.dropped.add(int(rest))
        elif word == "wrong":
            self.wrong.append(rest)

    def check(self, directory: Path) -> None:
        """Open the store and hold it against what may be relied on."""
        assert self.wrong == []
        with scene(directory).open() as store:
            store.audit()
            space = store.space(identity())
            found = {name: restore(space, prompt(name, BLOCKS)) // 64 for name in range(NAMES)}
            store.audit()
        assert {name: found[name] for name in self.dropped if found[name]} == {}
        lost = {n: (b, found[n]) for n, b in self.flushed.items() if found[n] < b}
        assert lost == {}


def _kill(directory: Path, seed: int, after_s: float, ledger: Ledger) -> None:
    """Let a process work for so long, kill it, and enter what it said."""
    process = subprocess.Popen(
        [sys.executable, str(HERE / "churn.py"), str(directory), str(seed)],
        env=os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout as said:
        assert said.readline() == "ready\n"
        threading.Timer(after_s, process.kill).start()
        for line in said:
            ledger.take(line.rstrip("\n"))
    assert process.wait(timeout=30) == -signal.SIGKILL


def test_kill_9_loses_nothing_and_brings_nothing_back(tmp_path: Path, takes_long: bool) -> None:
    """The same directory lives through all rounds."""
    delays = random.Random(20)
    ledger = Ledger()
    rounds = 50 if takes_long else 5
    for seed in range(10 * rounds):  # more where a busy machine gets nothing done before the kill
        if seed >= rounds and (ledger.flushed or ledger.dropped):
            return
        _kill(tmp_path / "store", seed, delays.uniform(0.02, 1.2), ledger)
        ledger.check(tmp_path / "store")
    raise AssertionError("nothing was ever flushed or dropped")


def test_kill_9_and_a_deleted_index_lose_nothing_either(tmp_path: Path, takes_long: bool) -> None:
    delays = random.Random(21)
    ledger = Ledger()
    for seed in range(20 if takes_long else 3):
        _kill(tmp_path / "store", 100 + seed, delays.uniform(0.3, 1.2), ledger)
        shutil.rmtree(tmp_path / "store" / "index")
        ledger.check(tmp_path / "store")
    assert ledger.flushed or ledger.dropped


def test_kill_9_and_an_older_index_bring_nothing_back(tmp_path: Path, takes_long: bool) -> None:
    """What the older index does not know may be missed; what was dropped stays dead."""
    delays = random.Random(22)
    index, older = tmp_path / "store" / "index", tmp_path / "older"
    ledger = Ledger()
    with scene(tmp_path / "store").open() as store:
        for name in range(NAMES):
            save(store.space(identity()), prompt(name, BLOCKS), tags=[f"prompt {name}"])
            assert store.flush()
    for seed in range(20 if takes_long else 3):
        shutil.copytree(index, older)
        _kill(tmp_path / "store", 200 + seed, delays.uniform(0.3, 1.2), ledger)
        shutil.rmtree(index)
        shutil.move(older, index)
        ledger.flushed = {}
        ledger.check(tmp_path / "store")
    assert ledger.dropped


@pytest.mark.parametrize("line", ["save 3 2", "flush 3:2 4:1", "drop 3", "gone 3", "wrong byte"])
def test_the_ledger_knows_every_line(line: str) -> None:
    ledger = Ledger(flushed={3: 1}, dropped={3})
    before = (dict(ledger.flushed), set(ledger.dropped), list(ledger.wrong))
    ledger.take(line)
    after = (ledger.flushed, ledger.dropped, ledger.wrong)
    assert before != after or line == "gone 3"


def test_the_ledger_finds_what_was_lost_and_what_came_back(tmp_path: Path) -> None:
    """The detector fires."""
    with scene(tmp_path / "store").open() as store:
        save(store.space(identity()), prompt(1, 2))
    Ledger(flushed={1: 2}, dropped={2}).check(tmp_path / "store")
    for ledger in (Ledger(flushed={1: 3}), Ledger(dropped={1}), Ledger(wrong=["byte"])):
        with pytest.raises(AssertionError):
            ledger.check(tmp_path / "store")
