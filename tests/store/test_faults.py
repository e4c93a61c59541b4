"""A disk that fails, hangs or lies: the store goes on, says so, and uses the disk again later."""

import errno
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kvstrata.kvstore.files import Bytes
from kvstrata.kvstore.store import Store
from tests.store.faulty import FaultyDisk, Operation
from tests.store.kit import (
    FRAME_BYTES,
    Crowd,
    KeyedPages,
    Scene,
    count,
    eventually,
    expect_no_lease,
    fill_memory,
    identity,
    prompt,
    restore,
    restored_from_disk,
    save,
    tier,
)

ERRORS = (errno.EIO, errno.ENOSPC, errno.EROFS)


def _degraded(store: Store) -> str:
    return tier(store.stats(), "disk").degraded


def _recover(scene: Scene, store: Store) -> None:
    scene.clock.advance(200)
    eventually(lambda: not _degraded(store))


@pytest.mark.parametrize("error", ERRORS, ids=errno.errorcode.get)
@pytest.mark.parametrize("only", ["pages.kvs", "headers.kvs"])
def test_a_disk_that_cannot_be_written_is_switched_off_and_the_store_goes_on(
    scene: Scene, error: int, only: str
) -> None:
    disk = FaultyDisk(only)
    with scene.open(disk.open) as store:
        space = store.space(identity())
        disk.fail("write", error=error)
        tokens = prompt(1, 4)
        assert save(space, tokens) == 4
        assert not store.flush()
        eventually(lambda: only in _degraded(store))
        assert str(scene.dir) in _degraded(store)
        assert restore(space, tokens) == 256
        assert save(space, prompt(2, 4)) == 4
        assert restore(space, prompt(2, 4)) == 256
        assert store.stats().dirty_blocks == 8
        disk.mend()
        _recover(scene, store)
        eventually(lambda: store.stats().dirty_blocks == 0)  # without being saved again
        assert store.flush()
        store.audit()
    with scene.open() as store:
        space = store.space(identity())
        assert restored_from_disk(space, prompt(1, 4)) == 4
        assert restored_from_disk(space, prompt(2, 4)) == 4


@pytest.mark.parametrize("only", ["pages.kvs", "headers.kvs"])
@pytest.mark.parametrize("error", ERRORS, ids=errno.errorcode.get)
def test_a_disk_that_cannot_be_read_is_a_miss_and_comes_back(
    scene: Scene, error: int, only: str
) -> None:
    tokens = prompt(1, 4)
    with scene.open() as store:
        save(store.space(identity()), tokens)
    disk = FaultyDisk(only)
    with scene.open(disk.open) as store:
        space = store.space(identity())
        disk.fail("read", error=error)
        assert restore(space, tokens) == 0
        assert only in _degraded(store)
        assert space.match(tokens).tokens == 0
        assert count(store, "quarantined") == 0
        expect_no_lease(store)
        assert save(space, prompt(2, 2)) == 2
        disk.mend()
        _recover(scene, store)
        assert restored_from_disk(space, tokens) == 4
        store.audit()


def test_what_is_out_of_reach_is_kept_in_memory_when_it_is_saved_again(scene: Scene) -> None:
    tokens = prompt(1, 4)
    with scene.open() as store:
        save(store.space(identity()), tokens)
    disk = FaultyDisk()
    with scene.open(disk.open) as store:
        space = store.space(identity())
        disk.fail("read", "write", "sync", error=errno.EIO)
        assert restore(space, tokens) == 0
        assert save(space, tokens) == 4
        assert restore(space, tokens) == 256
        disk.mend()
        _recover(scene, store)
        assert store.flush()
        assert restore(space, tokens) == 256
        store.audit()
    with scene.open() as store:
        assert restored_from_disk(store.space(identity()), tokens) == 4


@pytest.mark.parametrize("operation", ["read", "write", "sync"])
def test_a_probe_that_fails_leaves_the_disk_switched_off(
    scene: Scene, operation: Operation
) -> None:
    disk = FaultyDisk()
    with scene.open(disk.open) as store:
        space = store.space(identity())
        disk.fail("write", error=errno.EIO)
        save(space, prompt(1, 1))
        eventually(lambda: bool(_degraded(store)))
        disk.mend()
        disk.fail(operation, error=errno.EIO)
        before = disk.counts.total()
        scene.clock.advance(200)
        eventually(lambda: disk.counts.total() > before)
        assert _degraded(store)
        disk.mend()
        _recover(scene, store)
        assert store.flush()


def test_of_two_stripes_the_other_goes_on(scene: Scene) -> None:
    scene = replace(scene, stripes=(scene.dir / "a", scene.dir / "b"))
    disk = FaultyDisk()
    with scene.open(disk.open) as store:
        space = store.space(identity())
        disk.fail("read", "write", "sync", error=errno.EIO, directory=scene.stripes[0])
        for name in range(8):
            save(space, prompt(name, 1))
        eventually(lambda: bool(_degraded(store)))
        assert str(scene.stripes[0]) in _degraded(store)
        assert str(scene.stripes[1]) not in _degraded(store)
        assert store.flush()
        assert tier(store.stats(), "disk").blocks == 8
    with scene.open() as store:
        space = store.space(identity())
        assert [restore(space, prompt(name, 1)) for name in range(8)] == [64] * 8


@pytest.mark.parametrize("only", ["pages.kvs", "headers.kvs"])
def test_a_file_that_ends_too_early_is_a_miss(scene: Scene, only: str) -> None:
    tokens = prompt(1, 4)
    with scene.open() as store:
        save(store.space(identity()), tokens)
    disk = FaultyDisk(only)
    with scene.open(disk.open) as store:
        space = store.space(identity())
        disk.end_at(4096)
        assert restore(space, tokens) in (0, 64)
        assert _degraded(store)
        disk.mend()
        _recover(scene, store)
        assert restore(space, tokens) == 256


def test_a_flush_that_cannot_sync_says_so(scene: Scene) -> None:
    disk = FaultyDisk()
    with scene.open(disk.open) as store:
        space = store.space(identity())
        save(space, prompt(1, 2))
        disk.fail("sync", error=errno.EIO)
        assert not store.flush()
        disk.mend()
        _recover(scene, store)
        assert store.flush()


def test_a_read_that_hangs_is_a_miss_after_the_deadline(scene: Scene) -> None:
    tokens = prompt(1, 4)
    with scene.open() as store:
        save(store.space(identity()), tokens)
    disk = FaultyDisk("pages.kvs")
    with replace(scene, deadline=0.2).open(disk.open) as store:
        space = store.space(identity())
        gate = disk.hang("read")
        assert restore(space, tokens) == 0
        gate.wait_for(4)
        assert count(store, "late_loads") == 4
        assert count(store, "quarantined") == 0
        assert save(space, prompt(2, 2)) == 2
        assert restore(space, prompt(2, 2)) == 128
        assert tier(store.stats(), "host").leased >= 4  # the kernel's, until it gives them back
        disk.mend()
        expect_no_lease(store)
        if _degraded(store):
            _recover(scene, store)
        assert restore(space, tokens) == 256
        store.audit()


def test_a_disk_that_keeps_missing_its_deadlines_is_switched_off(scene: Scene) -> None:
    tokens = prompt(1, 6)
    with scene.open() as store:
        save(store.space(identity()), tokens)
    disk = FaultyDisk("pages.kvs")
    with replace(scene, deadline=0.1).open(disk.open) as store:
        space = store.space(identity())
        disk.hang("read")
        restore(space, tokens)
        assert "deadline" in _degraded(store)
        assert space.match(tokens).tokens == 0  # and nobody waits for it any more
        disk.mend()
        _recover(scene, store)
        assert restore(space, tokens) == 6 * 64


def test_no_page_is_used_again_while_its_read_is_in_flight(scene: Scene) -> None:
    """What hangs writes into its pages in the end; by then memory was filled three times over."""
    tokens = prompt(1, 4)
    with scene.open() as store:
        save(store.space(identity()), tokens)
    disk = FaultyDisk("pages.kvs")
    with replace(scene, deadline=0.1).open(disk.open) as store:
        space = store.space(identity())
        gate = disk.hang("read")
        assert restore(space, tokens) == 0
        gate.wait_for(4)
        room = tier(store.stats(), "host").capacity_bytes // FRAME_BYTES
        for name in range(3 * room):
            save(space, prompt(100 + name, 1))
        kept = [n for n in range(3 * room) if space.match(prompt(100 + n, 1)).tokens]
        assert len(kept) >= room - 8
        disk.mend()
        expect_no_lease(store)
        for name in kept:
            restore(space, prompt(100 + name, 1))
        store.audit()


def test_no_page_of_the_disk_is_used_again_while_its_write_is_in_flight(scene: Scene) -> None:
    """The block is dropped while its write hangs; others are written in the meantime."""
    scene = replace(scene, writers=3)
    disk = FaultyDisk("pages.kvs")
    with scene.open(disk.open) as store:
        space = store.space(identity())
        gate = disk.hang("write")
        save(space, prompt(1, 2))
        gate.wait_for(2)
        space.drop(prefix=prompt(1, 1)[:64])
        disk.let_pass()
        names = range(100, 140)
        for name in names:
            save(space, prompt(name, 1))
        eventually(lambda: store.stats().dirty_blocks == 0)
        gate.open()
        assert store.flush()
        fill_memory(store, space)
        assert [restore(space, prompt(name, 1)) for name in names] == [64] * len(names)
        assert count(store, "quarantined") == 0
        store.audit()


def test_a_write_that_hangs_holds_nobody_up(scene: Scene) -> None:
    disk = FaultyDisk("pages.kvs")
    with scene.open(disk.open) as store:
        space = store.space(identity())
        gate = disk.hang("write")
        room = tier(store.stats(), "host").capacity_bytes // FRAME_BYTES
        for name in range(3 * room):
            assert save(space, prompt(name, 1)) == 1
        gate.wait_for(1)
        assert not store.flush(timeout_s=0.05)
        assert count(store, "dropped_dirty") >= 2 * room - 1
        last = [n for n in range(3 * room) if space.match(prompt(n, 1)).tokens]
        disk.mend()
        assert store.flush()
        for name in last:
            assert restore(space, prompt(name, 1)) == 64
        store.audit()
    with scene.open() as store:
        space = store.space(identity())
        assert [restore(space, prompt(name, 1)) for name in last] == [64] * len(last)


def test_a_hang_of_one_stripe_does_not_hold_up_the_other(scene: Scene) -> None:
    scene = replace(scene, stripes=(scene.dir / "a", scene.dir / "b"), deadline=0.2)
    with scene.open() as store:
        space = store.space(identity())
        for name in range(8):
            save(space, prompt(name, 1))
            assert store.flush()
    disk = FaultyDisk("pages.kvs")
    with scene.open(disk.open) as store:
        space = store.space(identity())
        disk.hang("read", directory=scene.stripes[0])
        found = [restore(space, prompt(name, 1)) for name in range(8)]
        disk.mend()
        assert sorted(found) == [0] * 4 + [64] * 4
        expect_no_lease(store)


def _flip_a_bit(path: Path, offset: int, into: Sequence[Bytes]) -> None:
    into[0][7] ^= np.uint8(4)


@pytest.mark.parametrize("only", ["pages.kvs", "headers.kvs"])
def test_bits_flipped_on_the_way_are_a_miss(scene: Scene, only: str) -> None:
    tokens = prompt(1, 4)
    with scene.open() as store:
        save(store.space(identity()), tokens)
    disk = FaultyDisk(only)
    with scene.open(disk.open) as store:
        space = store.space(identity())
        disk.damage(_flip_a_bit)
        assert restore(space, tokens) == 0
        assert count(store, "quarantined") >= 1
        disk.mend()
        assert save(space, tokens) == 4
        assert restore(space, tokens) == 256
        store.audit()


def test_a_block_is_read_once_however_many_ask_for_it(scene: Scene) -> None:
    tokens = prompt(1, 6)
    with scene.open() as store:
        save(store.space(identity()), tokens)
    disk = FaultyDisk("pages.kvs")
    with scene.open(disk.open) as store:
        space = store.space(identity())
        gate = disk.hang("read")
        with Crowd() as crowd:
            for _ in range(8):
                crowd.start(lambda: _whole(restore(space, tokens)))
            gate.wait_for(4)
            disk.mend()
        assert disk.nbytes["read", "pages.kvs"] == 6 * FRAME_BYTES
        expect_no_lease(store)
        store.audit()


def _whole(restored: int) -> None:
    assert restored == 6 * 64


def test_a_hit_that_gives_up_leaves_the_pages_to_the_others(scene: Scene) -> None:
    tokens = prompt(1, 2)
    with scene.open() as store:
        save(store.space(identity()), tokens)
    disk = FaultyDisk("pages.kvs")
    with replace(scene, deadline=30).open(disk.open) as store:
        space = store.space(identity())
        gate = disk.hang("read")
        patient = space.hold(space.match(tokens))
        with space.hold(space.match(tokens)):
            gate.wait_for(1)
        disk.mend()
        pages = KeyedPages(space, tokens)
        assert patient.load(pages) == 128
        pages.check(128)
        patient.close()
        expect_no_lease(store)
