"""Every restorable length is found; a lost block or too little room shortens a hit."""

import errno
from dataclasses import replace
from pathlib import Path

import pytest

from kvstrata.kvstore.layout import Group, Layout, Part
from kvstrata.kvstore.plan import State
from tests.store import slabs
from tests.store.faulty import FaultyDisk
from tests.store.kit import (
    FULL,
    LAYOUTS,
    MIB,
    SHARDS,
    WINDOW,
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


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_every_length_of_a_whole_chain_is_restorable(scene: Scene, layout: Layout) -> None:
    with scene.open() as store:
        space = store.space(identity(layout))
        tokens = prompt(1, 6, layout=layout)
        save(space, tokens)
        step = layout.block_tokens
        plan = space.match(tokens)
        assert plan.lengths == tuple(range(step, 7 * step, step))
        assert plan.tokens == 6 * step
        assert (plan.states == State.READY).all()
        for length in plan.lengths:
            assert restore(space, tokens, at_most=length) == length
        assert restore(space, tokens, at_most=3 * step + 1) == 3 * step
        assert restore(space, tokens, at_most=step - 1) == 0


def test_a_prompt_is_found_as_far_as_it_agrees(scene: Scene) -> None:
    with scene.open() as store:
        space = store.space(identity())
        tokens = prompt(1, 6)
        save(space, tokens)
        other = [*tokens[:200], 5, *tokens[201:]]
        assert space.match(other).tokens == 192
        assert restore(space, other) == 192
        assert (space.match(other).states[0, 3:] == State.MISS).all()


def test_match_leases_nothing(scene: Scene) -> None:
    with scene.open() as store:
        space = store.space(identity())
        tokens = prompt(1, 6)
        save(space, tokens)
        store.flush()
        for _ in range(100):
            space.match(tokens)
        expect_no_lease(store)
        assert tier(store.stats(), "disk").leased == 0


def test_a_key_is_published_when_all_its_shards_are_there(scene: Scene) -> None:
    tokens = prompt(1, 3, layout=SHARDS)
    with scene.open() as store:
        space = store.space(identity(SHARDS))
        save(space, tokens)
        key = space.match(tokens).keys[1]
    slabs.flip(scene.dir / "headers.kvs", slabs.find(scene.dir, key, Part(0, 1)).header_at)
    with scene.open() as store:
        space = store.space(identity(SHARDS))
        assert restore(space, tokens) == 64
        eventually(lambda: space.match(tokens).tokens == 64)


@pytest.mark.parametrize("layout", [FULL, SHARDS], ids=["full", "shards"])
def test_a_lost_block_in_the_middle_shortens_the_hit_and_is_counted(
    scene: Scene, layout: Layout
) -> None:
    tokens = prompt(1, 6, layout=layout)
    with scene.open() as store:
        space = store.space(identity(layout))
        save(space, tokens)
        key = space.match(tokens).keys[3]
    slabs.damage(slabs.find(scene.dir, key))
    with scene.open() as store:
        space = store.space(identity(layout))
        assert space.match(tokens).tokens == 6 * layout.block_tokens
        assert restore(space, tokens) == 3 * layout.block_tokens
        assert count(store, "quarantined") == 1
        assert count(store, "failed_loads") == 1
        assert space.match(tokens).tokens == 3 * layout.block_tokens
        assert save(space, tokens) == 6
        assert restore(space, tokens) == 6 * layout.block_tokens
        store.audit()


def test_a_window_group_needs_only_the_blocks_of_its_window(scene: Scene) -> None:
    """A block of the window group that lies before the window may be lost without harm."""
    tokens = prompt(1, 6, layout=WINDOW)
    with scene.open() as store:
        space = store.space(identity(WINDOW))
        save(space, tokens)
        key = space.match(tokens).keys[1]
    slabs.damage(slabs.find(scene.dir, key, Part(1, 0)))
    with scene.open() as store:
        space = store.space(identity(WINDOW))
        assert restore(space, tokens) == 6 * 64
        assert count(store, "quarantined") == 0


def test_a_loss_within_the_window_is_never_restored_over(scene: Scene) -> None:
    tokens = prompt(1, 6, layout=WINDOW)
    with scene.open() as store:
        space = store.space(identity(WINDOW))
        save(space, tokens)
        key = space.match(tokens).keys[4]
    slabs.damage(slabs.find(scene.dir, key, Part(1, 0)))
    with scene.open() as store:
        space = store.space(identity(WINDOW))
        assert restore(space, tokens) in (0, 64, 128, 192, 256)
        assert count(store, "quarantined") == 1
        assert restore(space, tokens) == 256  # of what is left, every length is found
        store.audit()


def test_a_gap_between_stored_blocks_is_counted(scene: Scene) -> None:
    """Of two stripes one fails: what it held is missing between blocks that are there."""
    stripes = (scene.dir / "a", scene.dir / "b")
    scene = replace(scene, stripes=stripes)
    tokens = prompt(1, 12)
    with scene.open() as store:
        space = store.space(identity())
        save(space, tokens)
        store.flush()
        keys = space.match(tokens).keys
    homes = [next(d for d in stripes if _has(d, key)) for key in keys]
    assert len(set(homes)) == 2
    gone = homes[6]
    disk = FaultyDisk()
    with scene.open(disk.open) as store:
        space = store.space(identity())
        disk.fail("read", error=errno.EIO, directory=gone)
        first_gap = homes.index(gone)
        assert restore(space, tokens) == first_gap * 64
        assert count(store, "gaps") == 0
        assert space.match(tokens).tokens == first_gap * 64
        assert count(store, "gaps") == 1


def _has(directory: Path, key: bytes) -> bool:
    return any(frame.key == key for frame in slabs.frames(directory))


def test_a_hold_that_fits_only_partly_loads_what_fits(scene: Scene) -> None:
    """Eleven blocks on disk, room for ten in memory: ten are restored."""
    layout = Layout((Group((0, 1), heads=8, head_dim=64, dtype="float32"),), block_tokens=64)
    tokens = prompt(1, 11, layout=layout)
    with replace(scene, memory=16 * MIB).open() as store:
        assert save(store.space(identity(layout)), tokens) == 11
    with replace(scene, memory=6 * MIB + (256 << 10)).open() as store:
        room = tier(store.stats(), "host").capacity_bytes // layout.frame_bytes(0, 64)
        space = store.space(identity(layout))
        assert room == 10
        assert space.match(tokens).tokens == 11 * 64
        assert restore(space, tokens) == 10 * 64
        assert restore(space, tokens) == 10 * 64
        expect_no_lease(store)
        store.audit()


def test_two_holds_that_do_not_fit_together_get_what_there_is(scene: Scene) -> None:
    layout = Layout((Group((0, 1), heads=8, head_dim=64, dtype="float32"),), block_tokens=64)
    with replace(scene, memory=16 * MIB).open() as store:
        space = store.space(identity(layout))
        for name in (1, 2):
            save(space, prompt(name, 7, layout=layout))
    with replace(scene, memory=6 * MIB + (256 << 10)).open() as store:
        space = store.space(identity(layout))
        first, second = (prompt(name, 7, layout=layout) for name in (1, 2))
        pages = KeyedPages(space, first)
        with space.hold(space.match(first)) as hit:
            assert restore(space, second) == 3 * 64
            pages.check(hit.load(pages))
            assert hit.tokens == 7 * 64
        assert restore(space, second) == 7 * 64


def test_a_hold_leaves_alone_what_is_beyond_it(scene: Scene) -> None:
    with scene.open() as store:
        space = store.space(identity())
        tokens = prompt(1, 8)
        save(space, tokens)
        fill_memory(store, space)
        restore(space, tokens, at_most=128)
        assert restored_from_disk(space, tokens) == 6
