"""Who leaves and who stays: pins, leases, budgets, and what is counted as lost."""

from dataclasses import replace

import pytest

from kvstrata.kvstore.errors import ArgumentError
from kvstrata.kvstore.identity import private_weights
from kvstrata.kvstore.layout import Layout
from kvstrata.kvstore.store import Store
from tests.store.kit import (
    FRAME_BYTES,
    FULL,
    LAYOUTS,
    MIB,
    WINDOW,
    KeyedPages,
    Scene,
    count,
    expect_no_lease,
    fill_memory,
    identity,
    prompt,
    restore,
    restored_from_disk,
    save,
    tier,
)


def _room(store: Store, name: str = "host") -> int:
    return tier(store.stats(), name).capacity_bytes // FRAME_BYTES


def _memory_only(scene: Scene) -> Scene:
    return replace(scene, disk=0)


def test_memory_is_bounded_and_the_oldest_leave(scene: Scene) -> None:
    with _memory_only(scene).open() as store:
        space = store.space(identity())
        room = _room(store)
        for name in range(2 * room):
            assert save(space, prompt(name, 1)) == 1
            host = tier(store.stats(), "host")
            assert host.used_bytes <= host.capacity_bytes
        assert restore(space, prompt(0, 1)) == 0
        assert restore(space, prompt(2 * room - 1, 1)) == 64
        assert count(store, "evicted") >= room
        store.audit()


def test_what_is_read_stays_longer_than_what_is_not(scene: Scene) -> None:
    with _memory_only(scene).open() as store:
        space = store.space(identity())
        for name in range(2 * _room(store)):
            save(space, prompt(name, 1))
            assert restore(space, prompt(0, 1)) == 64
        assert restore(space, prompt(1, 1)) == 0


def test_a_pinned_block_is_never_evicted(scene: Scene) -> None:
    with _memory_only(scene).open() as store:
        space = store.space(identity())
        tokens = prompt(1, 4)
        save(space, tokens)
        assert space.pin(tokens, 3600) == 4
        for name in range(3 * _room(store)):
            save(space, prompt(100 + name, 1))
        assert restore(space, tokens) == 256
        assert store.stats().pinned_blocks == 4
        store.audit()


def test_a_pinned_block_is_never_evicted_from_disk_either(scene: Scene) -> None:
    scene = replace(scene, memory=4 * MIB, disk=8 * MIB)
    with scene.open() as store:
        space = store.space(identity())
        tokens = prompt(1, 4)
        save(space, tokens)
        store.flush()
        space.pin(tokens, 3600)
        for name in range(3 * _room(store, "disk")):
            save(space, prompt(100 + name, 1))
            assert name % 8 or store.flush()
        assert restore(space, tokens) == 256
        assert restore(space, prompt(100, 1)) == 0
        store.audit()


def test_a_block_may_leave_when_its_pin_ends(scene: Scene) -> None:
    with _memory_only(scene).open() as store:
        space = store.space(identity())
        for name, blocks in ((1, 4), (2, 4)):
            save(space, prompt(name, blocks))
            space.pin(prompt(name, blocks), 10)
        for name in range(2 * _room(store)):
            save(space, prompt(100 + name, 1))
        assert space.unpin(prompt(1, 4)) == 4
        scene.clock.advance(11)
        store.expire()
        assert store.stats().pinned_blocks == 0
        for name in range(2 * _room(store)):
            save(space, prompt(200 + name, 1))
        assert restore(space, prompt(1, 4)) == restore(space, prompt(2, 4)) == 0
        store.audit()


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_a_pin_without_time_is_refused(scene: Scene, seconds: float) -> None:
    with scene.open() as store, pytest.raises(ArgumentError, match="seconds"):
        store.space(identity()).pin(prompt(1, 1), seconds)


def test_save_never_waits_and_counts_what_fits_when_everything_is_pinned(scene: Scene) -> None:
    with _memory_only(scene).open() as store:
        space = store.space(identity())
        room = _room(store)
        full = prompt(1, room)
        assert save(space, full) == room
        assert space.pin(full, 60) == room
        assert save(space, prompt(2, 3)) == 0
        space.unpin(full)
        assert save(space, prompt(2, 3)) == 3
        assert save(space, full) == room
        store.audit()


def test_a_prompt_longer_than_memory_is_stored_as_far_as_it_fits(scene: Scene) -> None:
    with _memory_only(scene).open() as store:
        space = store.space(identity())
        room = _room(store)
        tokens = prompt(1, room + 5)
        assert save(space, tokens) == room
        assert restore(space, tokens) == room * 64
        store.audit()


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_a_leased_block_is_never_overwritten(scene: Scene, layout: Layout) -> None:
    with _memory_only(scene).open() as store:
        space = store.space(identity(layout))
        tokens = prompt(1, 6, layout=layout)
        save(space, tokens)
        pages = KeyedPages(space, tokens)
        with space.hold(space.match(tokens)) as hit:
            for name in range(3 * _room(store)):
                save(space, prompt(100 + name, 1, layout=layout))
            assert hit.load(pages) == 6 * layout.block_tokens
            pages.check(hit.tokens)
        expect_no_lease(store)
        store.audit()


def test_a_leased_block_outlives_its_own_removal(scene: Scene) -> None:
    with scene.open() as store:
        space = store.space(identity())
        tokens = prompt(1, 6)
        save(space, tokens, ttl_s=5)
        pages = KeyedPages(space, tokens)
        with space.hold(space.match(tokens)) as hit:
            scene.clock.advance(6)
            store.expire()
            assert space.match(tokens).tokens == 0
            fill_memory(store, space)
            hit.load(pages)
            pages.check(hit.tokens)
        expect_no_lease(store)
        store.audit()


def test_a_hit_of_one_owner_is_held_until_the_last_of_them_ends(scene: Scene) -> None:
    with _memory_only(scene).open() as store:
        space = store.space(identity())
        tokens = prompt(1, 6)
        save(space, tokens)
        plan = space.match(tokens)
        first, second = space.hold(plan, "engine/1"), space.hold(plan, "engine/1")
        assert first is second
        assert space.hold(plan, "engine/2") is not first
        first.close()
        assert tier(store.stats(), "host").leased == 6
        pages = KeyedPages(space, tokens)
        second.load(pages)
        pages.check(second.tokens)
        second.close()
        assert space.hold(plan, "engine/1") is not first


def test_a_head_never_leaves_before_its_tail(scene: Scene) -> None:
    with _memory_only(scene).open() as store:
        space = store.space(identity(WINDOW))
        tokens = prompt(1, 8, layout=WINDOW)
        save(space, tokens)
        found = [space.match(tokens).tokens]
        for name in range(_room(store)):
            save(space, prompt(100 + name, 1, layout=WINDOW))
            found.append(space.match(tokens).tokens)
            store.audit()
        assert found == sorted(found, reverse=True)
        assert set(found) == set(range(0, 9 * 64, 64))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("where", ["memory", "private", "none"])
def test_a_chain_that_is_continued_in_a_full_store_stays_a_chain(
    scene: Scene, layout: Layout, where: str
) -> None:
    """Room for a block is never made at the cost of the block before it, in any part."""
    scene = {
        "memory": replace(scene, disk=0),
        "private": scene,
        "none": replace(scene, write="none"),
    }[where]
    weights = private_weights() if where == "private" else ""
    with scene.open() as store:
        space = store.space(identity(layout, weights=weights))
        tokens = prompt(1, 2, layout=layout)
        for turn in range(12):
            save(space, tokens)
            for name in range(_room(store) - 3):
                save(space, prompt(1000 * (turn + 1) + name, 1, layout=layout))
            whole = len(tokens) // layout.block_tokens * layout.block_tokens
            tokens = tokens[:whole] + prompt(500 + turn, 1, layout=layout)
            stored = save(space, tokens)
            store.audit()
            assert space.match(tokens).tokens == stored * layout.block_tokens
            assert restore(space, tokens) == stored * layout.block_tokens


def test_what_is_on_disk_leaves_memory_first(scene: Scene) -> None:
    with scene.open() as store:
        space = store.space(identity())
        save(space, prompt(1, 8))
        fill_memory(store, space)
        assert count(store, "dropped_dirty") == 0
        assert restored_from_disk(space, prompt(1, 8)) == 8


def test_a_full_disk_lets_its_oldest_go(scene: Scene) -> None:
    scene = replace(scene, memory=4 * MIB, disk=8 * MIB)
    with scene.open() as store:
        space = store.space(identity())
        for name in range(3 * _room(store, "disk")):
            save(space, prompt(name, 1))
            assert name % 8 or store.flush()
        assert store.flush()
        disk = tier(store.stats(), "disk")
        assert disk.used_bytes <= disk.capacity_bytes
        assert restore(space, prompt(0, 1)) == 0
        assert restore(space, prompt(name, 1)) == 64
        store.audit()


def test_a_frame_larger_than_memory_is_refused(scene: Scene) -> None:
    layout = replace(FULL, block_tokens=8192)
    with scene.open() as store:
        space = store.space(identity(layout))
        assert save(space, prompt(1, 1, layout=layout)) == 0
        assert store.stats().blocks == 0
        store.audit()


def test_a_full_disk_keeps_nearly_as_long_a_chain_as_it_can(scene: Scene) -> None:
    """No block leaves it for its own child, which could not be reached without it."""
    scene = replace(scene, disk=1 * MIB)
    with scene.open() as store:
        space = store.space(identity())
        room = _room(store, "disk")
        tokens = prompt(1, room + 3)
        assert save(space, tokens) == room + 3
        assert not store.flush()
        store.audit()
    with scene.open() as store:
        assert restore(store.space(identity()), tokens) >= 64 * (room - 1)
