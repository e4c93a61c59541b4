"""Many threads of random verbs: no deadlock, no leaked lease, no byte beyond the budget."""

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from kvstrata.kvstore.layout import EXACT
from kvstrata.kvstore.space import Space
from kvstrata.kvstore.store import Store
from tests.store.kit import (
    FULL,
    MIB,
    ROUGH,
    SHARDS,
    WINDOW,
    Crowd,
    KeyedPages,
    Scene,
    expect_no_lease,
    identity,
    prompt,
    restore,
    save,
    tier,
)

ROOT = Path(__file__).parents[2]
THREADS = 16


class Worker:
    """One thread's random verbs; every byte that it restores is compared."""

    def __init__(self, store: Store, spaces: list[Space], seed: int) -> None:
        self._store = store
        self._spaces = spaces
        self._random = random.Random(seed)
        verbs: dict[Callable[[Space, list[int]], object], int] = {
            self.save: 12,
            self.restore: 12,
            self.share: 3,
            self.pin: 2,
            self.tag: 1,
            self.drop: 2,
            self.other: 3,
        }
        self._verbs, self._weights = list(verbs), list(verbs.values())

    def work(self, until: float) -> None:
        """Verbs until the time is over."""
        while time.monotonic() < until:
            space = self._random.choice(self._spaces)
            tokens = prompt(self._random.randrange(30), 1 + self._random.randrange(5), layout=FULL)
            self._random.choices(self._verbs, self._weights)[0](space, tokens)

    def save(self, space: Space, tokens: list[int]) -> None:
        """Save, sometimes for a short life or as a worse copy."""
        fidelity = self._random.choice((EXACT, EXACT, ROUGH))
        ttl_s = self._random.choice((0.0, 0.0, 0.2))
        save(space, tokens, fidelity=fidelity, ttl_s=ttl_s, tags=["t"])

    def restore(self, space: Space, tokens: list[int]) -> None:
        """Restore and compare."""
        restore(space, tokens)

    def share(self, space: Space, tokens: list[int]) -> None:
        """Join a hit of one of three owners, and leave it."""
        owner = f"engine/{self._random.randrange(3)}"
        with space.hold(space.match(tokens), owner):
            space.match(tokens)

    def pin(self, space: Space, tokens: list[int]) -> None:
        """Pin for a moment, or unpin."""
        space.pin(tokens, 0.05 + self._random.random()) if self._random.random() < 0.6 else (
            space.unpin(tokens)
        )

    def tag(self, space: Space, tokens: list[int]) -> None:
        """Tag."""
        space.tag(tokens, [self._random.choice("abc")])

    def drop(self, space: Space, tokens: list[int]) -> None:
        """Drop a prompt or a tag."""
        if self._random.random() < 0.8:
            space.drop(prefix=tokens, overwrite=self._random.random() < 0.3)
        else:
            space.drop(tag=self._random.choice("abc"))

    def other(self, space: Space, tokens: list[int]) -> None:
        """Prefetch, flush, expire, explain, look at the figures."""
        verbs: tuple[Callable[[], object], ...] = (
            partial(space.prefetch, tokens),
            partial(self._store.flush, 5.0),
            self._store.expire,
            partial(space.explain, tokens),
            self.check_budget,
        )
        self._random.choice(verbs)()

    def check_budget(self) -> None:
        """No tier has more than it may."""
        for line in self._store.stats().tiers:
            assert line.payload_bytes <= line.used_bytes <= line.capacity_bytes
        self._store.audit()


@pytest.mark.parametrize("codec", ["raw", "plane-huff"])
def test_sixteen_threads_of_random_verbs_leave_nothing_leased_and_nothing_wrong(
    scene: Scene, takes_long: bool, codec: str
) -> None:
    scene = replace(scene, memory=6 * MIB, disk=24 * MIB, writers=2, codec=codec)
    with replace(scene, clock=time.time).open() as store:  # type: ignore[arg-type]
        layouts = (FULL, WINDOW, SHARDS)
        spaces = [store.space(identity(layout, tenant=f"t{n}")) for n, layout in enumerate(layouts)]
        until = time.monotonic() + (60 if takes_long else 4)
        with Crowd() as crowd:
            for seed in range(THREADS):
                crowd.start(partial(Worker(store, spaces, seed).work, until))
            crowd.join(within_s=until - time.monotonic() + 60)
        assert store.flush(30)
        expect_no_lease(store)
        assert tier(store.stats(), "disk").leased == 0
        store.audit()
        assert threading.active_count() < 64


_GROW = """
import gc, sys
from pathlib import Path
import numpy as np
from tests.store.kit import MIB, Clock, Crowd, Scene, identity, prompt

class Engine:  # its own memory is no part of what is measured: one block, for ever
    block = (np.random.default_rng(1).standard_normal(32 << 10, np.float32)).view(np.uint8)

    def gather(self, part, blocks, into):
        for target in into:
            target[:] = self.block[: target.nbytes]

    def scatter(self, part, blocks, data, layers):
        assert all(source.nbytes for source in data)

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS"))

def use(space, seed, peaks):
    for name in range(150):
        tokens = prompt(seed * 1000 + name, 6)
        space.save(tokens, Engine())
        tokens = prompt(seed * 1000 + name // 2, 6)
        with space.hold(space.match(tokens)) as hit:
            hit.load(Engine())
        peaks.append(resident())

def run(directory, memory, disk):
    before, peaks = resident(), []
    scene = Scene(Path(directory), Clock(), memory=memory, disk=disk, codec=sys.argv[2])
    with scene.open() as store:
        space = store.space(identity())
        with Crowd() as crowd:
            for seed in range(4):
                crowd.start(lambda seed=seed: use(space, seed, peaks))
        store.flush()
        peaks.append(resident())
    return max(peaks) - before

run(sys.argv[1] + "-warm", 8 * MIB, 32 * MIB)  # imports, stacks and allocators have been used once
gc.collect()
print(run(sys.argv[1], 64 * MIB, 256 * MIB) / (64 * MIB))
"""


@pytest.mark.parametrize("codec", ["raw", "plane-huff"])
def test_a_process_grows_by_no_more_than_the_memory_setting(scene: Scene, codec: str) -> None:
    """Resident memory since before opening; in a process of its own, for others leave theirs."""
    child = subprocess.run(
        [sys.executable, "-c", _GROW, str(scene.dir), codec],
        env=os.environ
        | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "MALLOC_ARENA_MAX": "2"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert child.returncode == 0, child.stderr[-2000:]
    assert 0.8 < float(child.stdout) < 1.05


def test_a_deadlock_would_be_seen() -> None:
    """The crowd's own detector fires."""
    gate = threading.Event()
    crowd = Crowd()
    crowd.start(partial(gate.wait, 20))
    with pytest.raises(AssertionError, match="hangs"):
        crowd.join(within_s=0.05)
    gate.set()
    crowd.join()


def test_a_wrong_byte_would_be_seen(scene: Scene) -> None:
    with scene.open() as store:
        space = store.space(identity())
        pages = KeyedPages(space, prompt(1, 1), fidelity=77)
        space.save(prompt(1, 1), pages)
        with pytest.raises(AssertionError, match="wrong bytes"):
            restore(space, prompt(1, 1))
