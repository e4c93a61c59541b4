"""Dropping is final: the receipt is given when nothing can bring the blocks back."""

import errno
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from kvstrata.kvstore.errors import ArgumentError
from kvstrata.kvstore.layout import EXACT, Layout, Part
from kvstrata.kvstore.space import Space
from kvstrata.kvstore.store import Store
from tests.store import slabs
from tests.store.faulty import FaultyDisk
from tests.store.kit import (
    FRAME_BYTES,
    LAYOUTS,
    MIB,
    ROUGH,
    KeyedPages,
    Scene,
    content,
    eventually,
    expect_no_lease,
    fill_memory,
    frames_of,
    identity,
    prompt,
    restore,
    save,
    tier,
)


def _stays_away(scene: Scene, tokens: Sequence[int], *, layout: Layout) -> None:
    """Neither a restart nor a deleted index brings a prompt back."""
    for attempt in range(3):
        if attempt:
            shutil.rmtree(scene.dir / "index")
        with scene.open() as store:
            assert store.space(identity(layout)).match(tokens).tokens == 0
            store.audit()


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_a_dropped_prompt_is_gone_everywhere(scene: Scene, layout: Layout) -> None:
    tokens, other = prompt(1, 4, layout=layout), prompt(2, 4, layout=layout)
    step = layout.block_tokens
    with scene.open() as store:
        space = store.space(identity(layout))
        save(space, tokens)
        save(space, other)
        assert store.flush()
        receipt = space.drop(prefix=tokens[:step])
        frames = frames_of(layout, 4)
        assert receipt.blocks == frames
        assert receipt.removed == {"host": frames, "disk": frames}
        assert (receipt.overwritten_bytes, receipt.freed_bytes) == (0, 2 * frames * FRAME_BYTES)
        assert receipt.partial == ()
        assert receipt.when == scene.clock()
        assert space.match(tokens).tokens == 0
        assert restore(space, other) == 4 * step
        keys = space.match(tokens).keys
        assert not {frame.key for frame in slabs.frames(scene.dir)} & set(keys)
        store.audit()
    _stays_away(scene, tokens, layout=layout)
    with scene.open() as store:
        assert restore(store.space(identity(layout)), other) == 4 * step


def test_a_drop_takes_what_was_computed_after_and_leaves_what_was_before(scene: Scene) -> None:
    with scene.open() as store:
        space = store.space(identity())
        tokens = prompt(1, 6)
        fork = prompt(2, 2, after=tokens[:192])
        save(space, tokens)
        save(space, fork)
        assert space.drop(prefix=tokens[:192]).blocks == 6  # block 2, what follows it, and the fork
        assert restore(space, tokens) == restore(space, fork) == 128
        assert save(space, tokens) == 6
        assert space.drop(blocks=[space.match(tokens).keys[4]]).blocks == 2
        assert restore(space, tokens) == 256
        store.audit()


def test_what_was_dropped_may_be_saved_again(scene: Scene) -> None:
    tokens = prompt(1, 4)
    with scene.open() as store:
        space = store.space(identity())
        for _ in range(3):
            assert save(space, tokens) == 4
            assert store.flush()
            assert restore(space, tokens) == 256
            assert space.drop(prefix=tokens[:64]).blocks == 4
        assert save(space, tokens) == 4
    for attempt in range(2):
        with scene.open() as store:
            assert restore(store.space(identity()), tokens) == 256
        if not attempt:
            shutil.rmtree(scene.dir / "index")


def test_blocks_that_are_dropped_before_they_reach_the_disk_never_do(scene: Scene) -> None:
    disk = FaultyDisk("pages.kvs")
    tokens = prompt(1, 1)
    with scene.open(disk.open) as store:
        space = store.space(identity())
        gate = disk.hang("write")
        save(space, tokens)
        gate.wait_for(1)
        assert space.drop(prefix=tokens).blocks == 1
        disk.mend()
        assert store.flush()
        eventually(lambda: tier(store.stats(), "disk").used_bytes == 0)
        keys = set(space.match(tokens).keys)
        assert not {frame.key for frame in slabs.frames(scene.dir)} & keys
        store.audit()
    _stays_away(scene, tokens, layout=space.layout)


def test_a_drop_that_overtakes_its_write_holds_even_if_the_process_dies_then(scene: Scene) -> None:
    """The write ends after the receipt; its header alone must bring nothing back."""
    disk = FaultyDisk("pages.kvs")
    tokens = prompt(1, 3)
    with scene.open(disk.open) as store:
        space = store.space(identity())
        gate = disk.hang("write")
        save(space, tokens, tags=["t"])
        gate.wait_for(1)
        assert space.drop(tag="t").blocks == 3
        disk.mend()
        store.flush()
        save(space, tokens[:64])
        store.flush()
    shutil.rmtree(scene.dir / "index")
    with scene.open() as store:
        assert store.space(identity()).match(tokens).tokens == 64


def test_old_copies_in_forgotten_slots_stay_dead(scene: Scene) -> None:
    """Worse copies and evicted ones leave their headers behind; a drop kills those, too."""
    scene = replace(scene, memory=4 * MIB, disk=8 * MIB)
    tokens = prompt(1, 3)
    with scene.open() as store:
        space = store.space(identity())
        for fidelity in (ROUGH, EXACT):
            save(space, tokens, fidelity=fidelity)
            assert store.flush()
        room = tier(store.stats(), "disk").capacity_bytes // FRAME_BYTES
        for name in range(room - 4):
            save(space, prompt(100 + name, 1))
            assert name % 8 or store.flush()
        assert store.flush()
        space.drop(prefix=tokens[:64])
        space.drop(prefix=prompt(100, 1))
    _stays_away(scene, tokens, layout=space.layout)
    _stays_away(scene, prompt(100, 1), layout=space.layout)


def test_a_drop_of_what_was_evicted_keeps_it_from_coming_back(scene: Scene) -> None:
    """What left the disk may return after a crash; once dropped, it may not."""
    scene = replace(scene, memory=4 * MIB, disk=8 * MIB)
    tokens = prompt(1, 3)
    with scene.open() as store:
        space = store.space(identity())
        save(space, tokens)
        store.flush()
        name = 100
        while space.match(tokens).tokens:
            save(space, prompt(name, 1))
            store.flush()
            name += 1
        assert space.drop(prefix=tokens[:64]).blocks == 0
    _stays_away(scene, tokens, layout=space.layout)


def test_an_overwriting_drop_leaves_no_byte_of_the_payload(scene: Scene) -> None:
    tokens = prompt(1, 3)
    with scene.open() as store:
        space = store.space(identity())
        save(space, tokens)
        store.flush()
        receipt = space.drop(prefix=tokens[:64], overwrite=True)
        assert receipt.overwritten_bytes == 2 * 3 * FRAME_BYTES
        assert receipt.freed_bytes == 0
        on_disk = (scene.dir / "pages.kvs").read_bytes()
        for key in space.match(tokens).keys:
            assert content(key, Part(0, 0), FRAME_BYTES)[4096:4160].tobytes() not in on_disk
        store.audit()


def test_a_tag_is_dropped_in_every_identity_of_its_tenant_and_in_no_other(scene: Scene) -> None:
    tokens = prompt(1, 2)
    mine = [identity(model=1, tenant="me"), identity(model=2, tenant="me")]
    yours = identity(model=1, tenant="you")
    with scene.open() as store:
        for each in (*mine, yours):
            save(store.space(each), tokens, tags=["chat"])
            save(store.space(each), prompt(2, 2))
        assert store.space(mine[0]).drop(tag="chat").blocks == 4
        assert store.space(mine[0]).drop(tag="chat").blocks == 0
        assert [restore(store.space(each), tokens) for each in (*mine, yours)] == [0, 0, 128]
        assert restore(store.space(mine[1]), prompt(2, 2)) == 128
    shutil.rmtree(scene.dir / "index")
    with scene.open() as store:
        assert [restore(store.space(each), tokens) for each in (*mine, yours)] == [0, 0, 128]


def test_a_tenant_is_dropped_with_everything_it_has(scene: Scene) -> None:
    with scene.open() as store:
        for each in ("me", "you", ""):
            for model in (1, 2):
                save(store.space(identity(model=model, tenant=each)), prompt(1, 2))
        assert store.drop_tenant("me").blocks == 4
        assert store.drop_tenant("nobody").blocks == 0
    shutil.rmtree(scene.dir / "index")
    with scene.open() as store:
        found = {
            each: restore(store.space(identity(tenant=each)), prompt(1, 2))
            for each in ("me", "you", "")
        }
        assert found == {"me": 0, "you": 128, "": 128}
        assert save(store.space(identity(tenant="me")), prompt(1, 2)) == 2
    with scene.open() as store:
        assert restore(store.space(identity(tenant="me")), prompt(1, 2)) == 128


def test_a_pinned_block_is_dropped_all_the_same(scene: Scene) -> None:
    with scene.open() as store:
        space = store.space(identity())
        save(space, prompt(1, 2))
        space.pin(prompt(1, 2), 1000)
        assert space.drop(prefix=prompt(1, 1)[:64]).blocks == 2
        assert store.stats().pinned_blocks == 0


def test_a_reader_keeps_its_bytes_through_a_drop(scene: Scene) -> None:
    with scene.open() as store:
        space = store.space(identity())
        tokens = prompt(1, 3)
        save(space, tokens)
        pages = KeyedPages(space, tokens)
        with space.hold(space.match(tokens)) as hit:
            assert space.drop(prefix=tokens[:64]).blocks == 3
            assert space.match(tokens).tokens == 0
            fill_memory(store, space)
            pages.check(hit.load(pages))
        expect_no_lease(store)
        store.audit()


def test_an_overwriting_drop_never_gives_a_reader_zeros(scene: Scene) -> None:
    """The bytes under a reader are wrong from then on: its load must be a miss, or right."""
    with scene.open() as store:
        space = store.space(identity())
        tokens = prompt(1, 3)
        save(space, tokens)
        pages = KeyedPages(space, tokens)
        with space.hold(space.match(tokens)) as hit:
            space.drop(prefix=tokens[:64], overwrite=True)
            pages.check(hit.load(pages))
        expect_no_lease(store)


@pytest.mark.parametrize("named", [{}, {"prefix": range(10)}, {"blocks": [b"k" * 32], "tag": "t"}])
def test_a_drop_names_one_thing(scene: Scene, named: dict[str, object]) -> None:
    with scene.open() as store, pytest.raises(ArgumentError):
        store.space(identity()).drop(**named)  # type: ignore[arg-type]


def _two_stripes(scene: Scene) -> Scene:
    return replace(scene, stripes=(scene.dir / "a", scene.dir / "b"))


def _homes(scene: Scene, space: Space, tokens: Sequence[int]) -> set[Path]:
    keys = set(space.match(tokens).keys)
    return {d for d in scene.stripes for frame in slabs.frames(d) if frame.key in keys}


def test_a_stripe_out_of_reach_makes_the_receipt_partial_until_it_is_back(scene: Scene) -> None:
    scene = _two_stripes(scene)
    tokens = prompt(1, 8)
    disk = FaultyDisk()
    with scene.open(disk.open) as store:
        space = store.space(identity())
        save(space, tokens)
        assert store.flush()
        assert _homes(scene, space, tokens) == set(scene.stripes)
        disk.fail("read", "write", "sync", error=errno.EIO, directory=scene.stripes[1])
        receipt = space.drop(prefix=tokens[:64])
        assert receipt.blocks == 8
        assert len(receipt.partial) == 1
        assert str(scene.stripes[1]) in receipt.partial[0]
        assert _homes(scene, space, tokens) == {scene.stripes[1]}
        disk.mend()
        scene.clock.advance(120)
        eventually(lambda: not tier(store.stats(), "disk").degraded)
        assert _homes(scene, space, tokens) == set()
        eventually(lambda: tier(store.stats(), "disk").used_bytes == 0)
        store.audit()
    _stays_away(scene, tokens, layout=space.layout)


@pytest.mark.parametrize("both", [False, True])
def test_what_a_stripe_is_owed_is_carried_out_when_the_store_opens_again(
    scene: Scene, both: bool
) -> None:
    """The stripe, or both, came back only after the process had ended."""
    scene = _two_stripes(scene)
    tokens = prompt(1, 8)
    disk = FaultyDisk()
    with scene.open(disk.open) as store:
        space = store.space(identity())
        save(space, tokens)
        assert store.flush()
        gone = None if both else scene.stripes[1]
        disk.fail("read", "write", "sync", error=errno.EIO, directory=gone)
        assert space.drop(prefix=tokens[:64]).partial
    _stays_away(scene, tokens, layout=space.layout)


def test_drops_that_no_stripe_could_take_outlive_the_index(scene: Scene) -> None:
    tokens = prompt(1, 3)
    disk = FaultyDisk()
    with scene.open(disk.open) as store:
        space = store.space(identity())
        save(space, tokens)
        assert store.flush()
        disk.fail("read", "write", "sync", error=errno.EIO)
        save(space, prompt(2, 1))
        eventually(lambda: bool(tier(store.stats(), "disk").degraded))
        assert space.drop(prefix=tokens[:64]).partial
    shutil.rmtree(scene.dir / "index")
    _stays_away(scene, tokens, layout=space.layout)


def _drop_all(store: Store, space: Space) -> int:
    return sum(space.drop(prefix=prompt(name, 1)).blocks for name in range(20))


def test_many_drops_hold_together(scene: Scene) -> None:
    with scene.open() as store:
        space = store.space(identity())
        for name in range(20):
            save(space, prompt(name, 2))
        assert store.flush()
        assert _drop_all(store, space) == 40
        assert tier(store.stats(), "disk").used_bytes == 0
        store.audit()
    for name in (0, 19):
        _stays_away(scene, prompt(name, 2), layout=space.layout)


def test_a_tag_that_was_dropped_may_be_given_to_an_older_block_and_dropped_again(
    scene: Scene,
) -> None:
    tokens = prompt(1, 2)
    with scene.open() as store:
        space = store.space(identity())
        save(space, tokens)
        assert store.flush()
        assert space.drop(tag="b").blocks == 0
        assert space.tag(tokens, ["b"]) == 2
        assert store.flush()
        assert restore(space, tokens) == 128
    with scene.open() as store:
        space = store.space(identity())
        assert restore(space, tokens) == 128
        assert space.drop(tag="b").blocks == 2
    _stays_away(scene, tokens, layout=space.layout)


def test_a_drop_of_a_deep_tree_takes_all_of_it(scene: Scene) -> None:
    """More blocks than are taken away at once, in a chain and beside it."""
    scene = replace(scene, memory=24 * MIB)
    with scene.open() as store:
        space = store.space(identity())
        trunk = prompt(1, 90)
        save(space, trunk)
        for name in range(2, 50):
            save(space, prompt(name, 1, after=trunk[: 64 * name]))
        assert store.flush()
        stored = store.stats().blocks
        assert stored > 128
        assert space.drop(prefix=trunk[:64]).blocks == stored
        assert store.stats().blocks == 0
        store.audit()
    _stays_away(scene, trunk, layout=space.layout)
