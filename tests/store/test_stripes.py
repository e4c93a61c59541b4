"""Several slab files: what one of them suffers is not the others' business."""

import errno
from dataclasses import replace
from pathlib import Path

import pytest

from tests.store.faulty import FaultyDisk
from tests.store.kit import (
    FRAME_BYTES,
    MIB,
    Scene,
    count,
    eventually,
    identity,
    prompt,
    restore,
    save,
    tier,
)


@pytest.fixture
def striped(scene: Scene, tmp_path: Path) -> Scene:
    """Two slab files of 8 MiB."""
    return replace(scene, stripes=(tmp_path / "one", tmp_path / "two"), disk=16 * MIB)


def test_blocks_on_a_stripe_that_is_away_are_not_evicted_for_another(striped: Scene) -> None:
    disk = FaultyDisk()
    with striped.open(disk.open) as store:
        space = store.space(identity())
        room = tier(store.stats(), "disk").capacity_bytes // FRAME_BYTES
        for name in range(room):
            save(space, prompt(name, 1))
            store.flush()
        disk.fail("read", "write", "sync", error=errno.EIO, directory=striped.stripes[0])
        for name in range(500, 520):
            save(space, prompt(name, 1))
            store.flush()
        assert tier(store.stats(), "disk").degraded
        evicted = count(store, "evicted")
        for name in range(600, 604):
            save(space, prompt(name, 1))
            store.flush()
        assert count(store, "evicted") > evicted
        store.audit()
        disk.mend()
        striped.clock.advance(200)
        eventually(lambda: not tier(store.stats(), "disk").degraded)
        found = sum(restore(space, prompt(name, 1)) > 0 for name in range(room))
        assert found >= room // 2 - 2
        store.audit()


def test_a_stripe_whose_writes_hang_holds_up_nobody_else(striped: Scene) -> None:
    disk = FaultyDisk("pages.kvs")
    with striped.open(disk.open) as store:
        space = store.space(identity())
        gate = disk.hang("write", directory=striped.stripes[0])
        for name in range(40):
            save(space, prompt(name, 1))
        eventually(lambda: count(store, "demoted") >= 16)
        gate.open()
        disk.mend()
        assert store.flush()
        store.audit()
