"""A better copy is on its way to the disk: until it is there, the worse one is not given up."""

import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from kvstrata.kvstore.layout import EXACT
from kvstrata.kvstore.store import Store
from tests.store.faulty import FaultyDisk
from tests.store.kit import (
    FRAME_BYTES,
    ROUGH,
    KeyedPages,
    Scene,
    count,
    eventually,
    identity,
    prompt,
    restore,
    save,
    tier,
)

TOKENS = prompt(1, 2)


def test_a_better_copy_that_leaves_memory_unwritten_gives_way_to_the_worse_one(
    scene: Scene,
) -> None:
    disk = FaultyDisk("pages.kvs")
    with scene.open(disk.open) as store:
        space = store.space(identity())
        save(space, TOKENS, fidelity=ROUGH)
        assert store.flush()
        gate = disk.hang("write")
        for name in (2, 3):  # one that is being written, one that waits for its turn
            save(space, prompt(name, 1))
            gate.wait_for(1)
        eventually(lambda: tier(store.stats(), "host").leased == 2)
        save(space, TOKENS)
        assert space.match(TOKENS).fidelity == EXACT
        for name in range(tier(store.stats(), "host").capacity_bytes // FRAME_BYTES - 2):
            assert save(space, prompt(10 + name, 1)) == 1
        assert count(store, "dropped_dirty") >= 2
        assert space.match(TOKENS).fidelity == ROUGH
        assert restore(space, TOKENS) == 128
        store.audit()
        disk.mend()
        assert store.flush()
        store.audit()
    with scene.open() as store:
        assert restore(store.space(identity()), TOKENS) == 128


def test_a_disk_without_room_for_both_copies_keeps_the_better_one(scene: Scene) -> None:
    scene = replace(scene, disk=1 << 20)
    with scene.open() as store:
        space = store.space(identity())
        room = tier(store.stats(), "disk").capacity_bytes // FRAME_BYTES
        tokens = prompt(1, room)
        save(space, tokens, fidelity=ROUGH)
        assert store.flush()
        save(space, tokens)
        assert store.flush()
        store.audit()
    with scene.open() as store:
        space = store.space(identity())
        assert space.match(tokens).fidelity == EXACT
        assert restore(space, tokens) == 64 * room


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_drop_takes_the_worse_copy_along(
    scene: Scene, tmp_path: Path, *, overwrite: bool
) -> None:
    disk = FaultyDisk("pages.kvs")
    with scene.open(disk.open) as store:
        space = store.space(identity())
        save(space, TOKENS, fidelity=ROUGH)
        assert store.flush()
        gate = disk.hang("write")
        save(space, prompt(2, 1))
        gate.wait_for(1)
        save(space, TOKENS)
        disk.let_pass()  # the write that hangs goes on hanging, and what comes behind it waits
        receipt = space.drop(prefix=TOKENS[:67], overwrite=overwrite)
        assert receipt.removed == {"host": 2, "disk": 2}
        assert receipt.overwritten_bytes == (4 * FRAME_BYTES if overwrite else 0)
        assert not receipt.partial
        shutil.copytree(scene.dir, tmp_path / "crashed")
        gate.open()
        assert store.flush()
        assert tier(store.stats(), "disk").used_bytes == FRAME_BYTES
        store.audit()
    shutil.rmtree(tmp_path / "crashed" / "index")
    with replace(scene, dir=tmp_path / "crashed").open() as store:
        assert store.space(identity()).match(TOKENS).tokens == 0


def test_adopted_memory_has_the_better_copy(scene: Scene, tmp_path: Path) -> None:
    disk = FaultyDisk("pages.kvs")
    with scene.open(disk.open) as store:
        space = store.space(identity())
        save(space, TOKENS, fidelity=ROUGH)
        assert store.flush()
        disk.fail("write", error=errno.EIO)
        save(space, TOKENS)
        assert not store.flush()
        fd = os.dup(store.host_fd)
        shutil.copytree(scene.dir, tmp_path / "crashed")
    settings = replace(store.settings, dir=tmp_path / "crashed")
    with Store(settings, clock=scene.clock, host_fd=fd) as store:
        space = store.space(identity())
        assert space.match(TOKENS).fidelity == EXACT
        assert restore(space, TOKENS) == 128
        assert store.flush()
        store.audit()
    with replace(scene, dir=tmp_path / "crashed").open() as store:
        assert store.space(identity()).match(TOKENS).fidelity == EXACT


def test_the_worse_copy_is_read_to_its_end_while_the_better_one_is_written(scene: Scene) -> None:
    """Its pages are not used again under the read."""
    disk = FaultyDisk("pages.kvs")
    with scene.open() as store:
        save(store.space(identity()), TOKENS, fidelity=ROUGH)
    with scene.open(disk.open) as store:
        space = store.space(identity())
        pages = KeyedPages(space, TOKENS)
        gate = disk.hang("read")
        with space.hold(space.match(TOKENS)) as hit:
            gate.wait_for(1)
            save(space, TOKENS)
            assert store.flush()
            save(space, prompt(2, 8))
            assert store.flush()
            disk.mend()
            assert hit.load(pages) == 128
            pages.check(128, hit.fidelity)
        assert space.match(TOKENS).fidelity == EXACT
        store.audit()
