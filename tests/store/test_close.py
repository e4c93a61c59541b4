"""A store closes whatever its disk does, and opens again with what had been flushed."""

import errno

import pytest

from tests.store.faulty import FaultyDisk
from tests.store.kit import Crowd, Scene, eventually, identity, prompt, restore, save, tier


def test_a_store_closes_although_its_disk_fails_and_opens_again(scene: Scene) -> None:
    disk = FaultyDisk()
    with scene.open(disk.open) as store:
        space = store.space(identity())
        save(space, prompt(1, 2))
        assert store.flush()
        disk.fail("read", "write", "sync", error=errno.EIO)
        save(space, prompt(2, 2))
        eventually(lambda: bool(tier(store.stats(), "disk").degraded))
    with scene.open() as store:
        assert restore(store.space(identity()), prompt(1, 2)) == 128
        assert restore(store.space(identity()), prompt(2, 2)) == 0


def test_a_store_closes_although_a_write_hangs(scene: Scene, *, takes_long: bool) -> None:
    """Nobody waits for ever: the thread that hangs is left behind."""
    if not takes_long:
        pytest.skip("a store gives its disk 25 seconds; --long runs it")
    disk = FaultyDisk("pages.kvs")
    store = scene.open(disk.open)
    space = store.space(identity())
    save(space, prompt(1, 2))
    assert store.flush()
    gate = disk.hang("write")
    save(space, prompt(2, 2))
    gate.wait_for(1)
    with Crowd() as crowd:
        crowd.start(store.close)
    disk.mend()
    with scene.open() as store:
        assert restore(store.space(identity()), prompt(1, 2)) == 128
