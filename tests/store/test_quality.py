"""Fidelity belongs to the chain: declared, inherited, and only ever improved."""

import errno
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from kvstrata.kvstore.errors import ArgumentError
from kvstrata.kvstore.layout import EXACT
from kvstrata.kvstore.store import Store
from tests.store.faulty import FaultyDisk
from tests.store.kit import (
    COARSE,
    FRAME_BYTES,
    ROUGH,
    WINDOW,
    Crowd,
    KeyedPages,
    Scene,
    count,
    expect_no_lease,
    fill_memory,
    identity,
    prompt,
    restore,
    save,
    tier,
)


def test_a_better_copy_replaces_a_worse_one(scene: Scene) -> None:
    tokens = prompt(1, 4)
    with scene.open() as store:
        space = store.space(identity())
        assert save(space, tokens, fidelity=ROUGH) == 4
        assert space.match(tokens).fidelity == ROUGH
        assert save(space, tokens) == 4
        assert space.match(tokens).fidelity == EXACT
        assert restore(space, tokens) == 256
        assert store.stats().blocks == 4
        assert count(store, "replaced") == 4
        store.audit()
    with scene.open() as store:
        space = store.space(identity())
        assert space.match(tokens).fidelity == EXACT
        assert restore(space, tokens) == 256


@pytest.mark.parametrize("is_on_disk", [False, True])
def test_a_worse_copy_never_replaces_a_better_one(scene: Scene, is_on_disk: bool) -> None:
    tokens = prompt(1, 4)
    with scene.open() as store:
        space = store.space(identity())
        save(space, tokens)
        if is_on_disk:
            fill_memory(store, space)
        pages = KeyedPages(space, tokens, fidelity=ROUGH)
        assert space.save(tokens, pages, fidelity=ROUGH) == 4
        assert pages.gathered == 0
        assert space.match(tokens).fidelity == EXACT
        assert restore(space, tokens) == 256


def test_a_better_copy_replaces_one_that_is_on_disk_for_good(scene: Scene) -> None:
    tokens = prompt(1, 4)
    with scene.open() as store:
        space = store.space(identity())
        save(space, tokens, fidelity=ROUGH)
        fill_memory(store, space)
        save(space, tokens)
        assert restore(space, tokens) == 256
    for _ in range(2):
        with scene.open() as store:
            space = store.space(identity())
            assert space.match(tokens).fidelity == EXACT
            assert restore(space, tokens) == 256


def test_a_better_copy_stays_the_better_one_when_the_index_is_deleted(scene: Scene) -> None:
    tokens = prompt(1, 4)
    with scene.open() as store:
        space = store.space(identity())
        for fidelity in (COARSE, ROUGH, EXACT):
            save(space, tokens, fidelity=fidelity)
            assert store.flush()
    for path in (scene.dir / "index").iterdir():
        path.unlink()
    with scene.open() as store:
        space = store.space(identity())
        assert space.match(tokens).fidelity == EXACT
        assert restore(space, tokens) == 256


def test_the_fidelity_of_a_plan_is_that_of_its_weakest_block(scene: Scene) -> None:
    with scene.open() as store:
        space = store.space(identity())
        tokens = prompt(1, 4)
        save(space, tokens[:128])
        save(space, tokens[:192], fidelity=ROUGH)
        space.save(tokens, KeyedPages(space, tokens), start=192)
        assert space.match(tokens[:128]).fidelity == EXACT
        assert space.match(tokens).fidelity == ROUGH
        with space.hold(space.match(tokens)) as hit:
            assert hit.fidelity == ROUGH
        with space.hold(space.match(tokens), at_most=130) as hit:
            assert hit.fidelity == EXACT


def test_what_a_window_no_longer_sees_does_not_weaken_it(scene: Scene) -> None:
    with scene.open() as store:
        space = store.space(identity(replace(WINDOW, groups=WINDOW.groups[1:])))
        tokens = prompt(1, 6)
        save(space, tokens[:128], fidelity=ROUGH)
        space.save(tokens, KeyedPages(space, tokens), start=128)
        assert space.match(tokens).fidelity == EXACT
        assert space.match(tokens[:200]).fidelity == ROUGH


def test_what_is_derived_from_a_hit_inherits_its_fidelity(scene: Scene) -> None:
    with scene.open() as store:
        space = store.space(identity())
        tokens = prompt(1, 6)
        save(space, tokens[:128], fidelity=ROUGH)
        with space.hold(space.match(tokens)) as hit:
            pages = KeyedPages(space, tokens, fidelity=ROUGH)
            assert space.save(tokens, pages, start=128, derived_from=hit) == 6
        assert space.match(tokens).fidelity == ROUGH
        with space.hold(space.match(tokens)) as hit:
            assert hit.fidelity == ROUGH
            assert save(space, prompt(2, 2), fidelity=COARSE, derived_from=hit) == 2
        assert space.match(prompt(2, 2)).fidelity == COARSE


def test_an_inherited_fidelity_survives_a_restart(scene: Scene) -> None:
    tokens = prompt(1, 4)
    with scene.open() as store:
        save(store.space(identity()), tokens, fidelity=ROUGH)
    with scene.open() as store:
        space = store.space(identity())
        with space.hold(space.match(tokens)) as hit:
            assert hit.fidelity == ROUGH
            pages = KeyedPages(space, tokens)
            pages.check(hit.load(pages), claimed=ROUGH)


@pytest.mark.parametrize("fidelity", [-1, 256, 1000])
def test_a_fidelity_that_there_is_none_of_is_refused_and_leaves_nothing(
    scene: Scene, fidelity: int
) -> None:
    with scene.open() as store:
        space = store.space(identity())
        with pytest.raises(ArgumentError, match="fidelity"):
            save(space, prompt(1, 3), fidelity=fidelity)
        _is_untouched(store)


def test_pages_that_cannot_be_gathered_leave_nothing(scene: Scene) -> None:
    class Broken(KeyedPages):
        def gather(self, part: object, blocks: Sequence[int], into: object) -> None:
            raise RuntimeError("the engine is gone")

    with scene.open() as store:
        space = store.space(identity())
        tokens = prompt(1, 3)
        with pytest.raises(RuntimeError, match="engine"):
            space.save(tokens, Broken(space, tokens))
        _is_untouched(store)
        assert save(space, tokens) == 3
        assert restore(space, tokens) == 192


def test_a_failed_replacement_leaves_the_worse_copy(scene: Scene) -> None:
    class Broken(KeyedPages):
        def gather(self, part: object, blocks: Sequence[int], into: object) -> None:
            raise RuntimeError("the engine is gone")

    with scene.open() as store:
        space = store.space(identity())
        tokens = prompt(1, 3)
        save(space, tokens, fidelity=ROUGH)
        with pytest.raises(RuntimeError, match="engine"):
            space.save(tokens, Broken(space, tokens))
        assert space.match(tokens).fidelity == ROUGH
        assert restore(space, tokens) == 192
        assert store.flush()
        expect_no_lease(store)
        store.audit()


def _is_untouched(store: Store) -> None:
    assert store.stats().blocks == 0
    assert tier(store.stats(), "host").used_bytes == 0
    expect_no_lease(store)
    store.audit()


def test_a_hit_keeps_the_bytes_it_was_promised_while_a_better_copy_comes(scene: Scene) -> None:
    with scene.open() as store:
        space = store.space(identity())
        tokens = prompt(1, 4)
        save(space, tokens, fidelity=ROUGH)
        pages = KeyedPages(space, tokens)
        with space.hold(space.match(tokens)) as hit:
            save(space, tokens)
            fill_memory(store, space)
            assert hit.fidelity == ROUGH
            pages.check(hit.load(pages), claimed=ROUGH)
            with pytest.raises(AssertionError):
                pages.check(hit.tokens, claimed=EXACT)
        assert restore(space, tokens) == 256


def test_a_read_of_the_worse_copy_is_not_joined_once_there_is_a_better_one(scene: Scene) -> None:
    """The read of the old generation hangs; whoever holds later gets the new generation's bytes."""
    scene = replace(scene, deadline=0.3)
    tokens = prompt(1, 1)
    with scene.open() as store:
        save(store.space(identity()), tokens, fidelity=ROUGH)
    disk = FaultyDisk("pages.kvs")
    with scene.open(disk.open) as store:
        space = store.space(identity())
        gate = disk.hang("read")
        old = space.hold(space.match(tokens))
        gate.wait_for(1)
        save(space, tokens)
        assert store.flush()
        fill_memory(store, space)
        new = space.hold(space.match(tokens))
        disk.mend()
        pages = KeyedPages(space, tokens)
        assert new.load(pages) == 64
        pages.check(64, claimed=EXACT)
        old_pages = KeyedPages(space, tokens)
        old_pages.check(old.load(old_pages), claimed=old.fidelity)
        old.close()
        new.close()
        expect_no_lease(store)
        store.audit()


def test_a_late_write_of_the_worse_copy_does_not_cost_the_better_one(scene: Scene) -> None:
    """Two writers: the old generation's write ends after the new one's is in the books."""
    scene = replace(scene, writers=2)
    tokens = prompt(1, 1)
    disk = FaultyDisk("pages.kvs")
    with scene.open(disk.open) as store:
        space = store.space(identity())
        gate = disk.hang("write")
        save(space, tokens, fidelity=ROUGH)
        gate.wait_for(1)
        save(space, tokens)
        gate.wait_for(2)
        disk.mend()
        assert store.flush()
        store.audit()
        assert tier(store.stats(), "disk").used_bytes == FRAME_BYTES
    with scene.open() as store:
        space = store.space(identity())
        assert space.match(tokens).fidelity == EXACT
        assert restore(space, tokens) == 64


def test_a_better_copy_that_never_reached_the_disk_costs_no_flushed_one(
    scene: Scene, tmp_path: Path
) -> None:
    """The directory as a crash would leave it, before the better copy could be written."""
    tokens = prompt(1, 2)
    disk = FaultyDisk("pages.kvs")
    with scene.open(disk.open) as store:
        space = store.space(identity())
        save(space, tokens, fidelity=ROUGH)
        assert store.flush()
        disk.fail("write", error=errno.EIO)
        save(space, tokens)
        assert not store.flush()
        shutil.copytree(scene.dir, tmp_path / "crashed")
        disk.mend()
    with replace(scene, dir=tmp_path / "crashed").open() as store:
        assert restore(store.space(identity()), tokens) == 128
    with scene.open() as store:
        space = store.space(identity())
        assert restore(space, tokens) == 128
        store.audit()


def test_two_threads_that_save_the_same_prompt_store_it_once(scene: Scene) -> None:
    with scene.open() as store:
        space = store.space(identity())
        tokens = prompt(1, 8)
        with Crowd() as crowd:
            for number in range(8):
                crowd.start(partial(save, space, tokens, fidelity=(EXACT, ROUGH)[number % 2]))
        assert store.flush()
        assert store.stats().blocks == 8
        assert space.match(tokens).fidelity == EXACT
        assert restore(space, tokens) == 512
        assert tier(store.stats(), "host").used_bytes == 8 * FRAME_BYTES
        assert tier(store.stats(), "disk").used_bytes == 8 * FRAME_BYTES
        expect_no_lease(store)
        store.audit()


def test_a_better_copy_of_the_oldest_leaf_in_a_full_store_is_stored_whole(scene: Scene) -> None:
    """Room for the better copy may be made at the cost of the very block that it replaces."""
    with replace(scene, disk=0).open() as store:
        space = store.space(identity())
        room = tier(store.stats(), "host").capacity_bytes // FRAME_BYTES
        tokens = prompt(1, 3)
        save(space, tokens[:64], fidelity=ROUGH)
        for name in range(room - 1):
            save(space, prompt(100 + name, 1))
        stored = save(space, tokens)
        store.audit()
        assert restore(space, tokens) == stored * 64
