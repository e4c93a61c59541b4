"""Expiry, tags, pins, attachments and prefetch: what users say of blocks, and how long it holds."""

import errno
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from kvstrata.kvstore.errors import ArgumentError, StoreClosedError
from kvstrata.kvstore.layout import Group, Layout
from kvstrata.kvstore.space import Space
from kvstrata.kvstore.store import Store
from tests.store.faulty import FaultyDisk
from tests.store.kit import (
    FRAME_BYTES,
    ROUGH,
    Bytes,
    KeyedPages,
    Scene,
    count,
    eventually,
    expect_no_lease,
    fill_memory,
    identity,
    prompt,
    restore,
    save,
    tier,
)


def test_a_block_lives_until_its_time_is_over(scene: Scene) -> None:
    with scene.open() as store:
        space = store.space(identity())
        tokens = prompt(1, 4)
        save(space, tokens, ttl_s=100)
        scene.clock.advance(99)
        assert restore(space, tokens) == 256
        scene.clock.advance(2)
        assert restore(space, tokens) == 0  # at once, whether the house was kept or not
        store.expire()
        assert store.stats().blocks == 0
        assert count(store, "expired") == 4
        eventually(lambda: tier(store.stats(), "disk").used_bytes == 0)
        eventually(lambda: tier(store.stats(), "host").used_bytes == 0)
        store.audit()


def test_what_expired_is_saved_again_as_new(scene: Scene) -> None:
    with scene.open() as store:
        space = store.space(identity())
        tokens = prompt(1, 4)
        save(space, tokens, ttl_s=100)
        scene.clock.advance(101)
        assert save(space, tokens) == 4
        assert restore(space, tokens) == 256
        scene.clock.advance(10_000)
        store.expire()
        assert restore(space, tokens) == 256


def test_expiry_survives_a_restart(scene: Scene) -> None:
    tokens = prompt(1, 4)
    with scene.open() as store:
        save(store.space(identity()), tokens, ttl_s=100)
    with scene.open() as store:
        assert restore(store.space(identity()), tokens) == 256
    scene.clock.advance(101)
    with scene.open() as store:
        assert restore(store.space(identity()), tokens) == 0
        store.expire()
        assert store.stats().blocks == 0


def test_the_settings_give_a_ttl_to_saves_that_name_none(scene: Scene) -> None:
    with scene.open() as store:
        space = store.space(identity())
        save(space, prompt(1, 1))
        save(space, prompt(2, 1), ttl_s=0)
        scene.clock.advance(1e9)
        assert restore(space, prompt(1, 1)) == restore(space, prompt(2, 1)) == 64


def test_saving_again_prolongs_a_life_and_never_shortens_it(scene: Scene) -> None:
    with scene.open() as store:
        space = store.space(identity())
        for tokens, ttl_s in ((prompt(1, 2), 200), (prompt(2, 2), 50), (prompt(3, 2), 0)):
            save(space, tokens, ttl_s=100)
            save(space, tokens, ttl_s=ttl_s)
        scene.clock.advance(101)
        store.expire()
        assert restore(space, prompt(1, 2)) == 128
        assert restore(space, prompt(2, 2)) == 0
        assert restore(space, prompt(3, 2)) == 128


def test_a_lost_parent_frees_what_hangs_from_it(scene: Scene) -> None:
    with scene.open() as store:
        space = store.space(identity())
        tokens = prompt(1, 6)
        save(space, tokens[:128], ttl_s=10)
        save(space, tokens, ttl_s=10_000)
        save(space, tokens[:128])  # the head is prolonged with the tail
        scene.clock.advance(11)
        store.expire()
        assert restore(space, tokens) in (0, 384)
        assert store.stats().blocks in (0, 6)
        store.audit()


def test_a_better_copy_brings_its_own_terms(scene: Scene) -> None:
    with scene.open() as store:
        space = store.space(identity())
        tokens = prompt(1, 2)
        save(space, tokens, fidelity=ROUGH, ttl_s=100)
        space.pin(tokens, 50)
        save(space, tokens, ttl_s=1000, tags=["mine"])
        scene.clock.advance(101)
        store.expire()
        assert store.stats().pinned_blocks == 0
        assert restore(space, tokens) == 128
        assert space.drop(tag="mine").blocks == 2
        save(space, tokens, ttl_s=1000)
        scene.clock.advance(1001)
        assert store.expire() == 2


@pytest.mark.parametrize("ttl_s", [-1.0, float("inf"), float("nan")])
def test_a_life_that_is_no_time_is_refused(scene: Scene, ttl_s: float) -> None:
    with scene.open() as store, pytest.raises(ArgumentError, match="ttl_s"):
        save(store.space(identity()), prompt(1, 1), ttl_s=ttl_s)


def test_tags_given_at_any_time_hold_after_a_restart(scene: Scene) -> None:
    tokens, other = prompt(1, 3), prompt(2, 2)
    for attempt in range(2):
        with scene.open() as store:
            space = store.space(identity())
            save(space, tokens)
            save(space, other)
            assert store.flush()
            assert space.tag(tokens, ["late"]) == 3
            assert store.flush()
        if attempt:
            shutil.rmtree(scene.dir / "index")
        with scene.open() as store:
            space = store.space(identity())
            assert space.drop(tag="late").blocks == 3
            assert restore(space, tokens) == 0
            assert restore(space, other) == 128


def test_tags_of_long_blocks_hold_after_the_index_is_deleted(scene: Scene) -> None:
    layout = Layout((Group((0,), heads=1, head_dim=16, dtype="float32"),), block_tokens=2048)
    tokens = prompt(1, 2, layout=layout)
    with scene.open() as store:
        save(store.space(identity(layout)), tokens, tags=["early"])
    shutil.rmtree(scene.dir / "index")
    with scene.open() as store:
        assert store.space(identity(layout)).drop(tag="early").blocks == 2


def test_a_tag_given_to_a_block_saved_again_counts(scene: Scene) -> None:
    with scene.open() as store:
        space = store.space(identity())
        save(space, prompt(1, 3))
        save(space, prompt(1, 2), tags=["a", "b"])
        assert space.drop(tag="b").blocks >= 2
        assert restore(space, prompt(1, 3)) == 0


def test_a_tag_that_cannot_be_written_is_refused_and_leaves_nothing(scene: Scene) -> None:
    with scene.open() as store:
        space = store.space(identity())
        for bad in ("", "a\0b", "x" * 70_000, "\udc00"):
            with pytest.raises(ArgumentError):
                save(space, prompt(1, 2), tags=[bad])
        assert store.stats().blocks == 0
        expect_no_lease(store)
        store.audit()


def test_a_tag_that_cannot_be_written_is_not_given_to_stored_blocks_either(scene: Scene) -> None:
    with scene.open() as store:
        space = store.space(identity())
        save(space, prompt(1, 2))
        store.flush()
        for bad in ("", "a\0b", "\udc00"):
            with pytest.raises(ArgumentError):
                space.tag(prompt(1, 2), [bad])
            with pytest.raises(ArgumentError):
                save(space, prompt(1, 2), tags=[bad])
        assert store.flush()


def _scores(blocks: int, seed: int = 3) -> list[Bytes]:
    random = np.random.default_rng(seed)
    return [random.integers(0, 256, 100 + n, np.uint8) for n in range(blocks)]


def _attachments(scene: Scene, tokens: Sequence[int]) -> list[dict[str, Bytes]]:
    with scene.open() as store:
        space = store.space(identity())
        with space.hold(space.match(tokens)) as hit:
            assert hit.tokens == len(tokens) // 64 * 64
            pages = KeyedPages(space, tokens)
            pages.check(hit.load(pages))
            return [hit.attachments(block) for block in range(hit.tokens // 64)]


@pytest.mark.parametrize("codec", ["raw", "plane-huff"])
def test_attachments_survive_a_restart(scene: Scene, codec: str) -> None:
    scene = replace(scene, codec=codec)
    tokens = prompt(1, 3)
    scores, notes = _scores(3), _scores(3, seed=9)
    with scene.open() as store:
        space = store.space(identity())
        pages = KeyedPages(space, tokens)
        space.save(tokens, pages, attachments={"scores": scores, "notes": notes})
        with space.hold(space.match(tokens)) as hit:
            assert np.array_equal(hit.attachments(1)["scores"], scores[1])
    for found, score, note in zip(_attachments(scene, tokens), scores, notes, strict=True):
        assert set(found) == {"scores", "notes"}
        assert np.array_equal(found["scores"], score)
        assert np.array_equal(found["notes"], note)


@pytest.mark.parametrize("arrays", [_scores(2), [np.zeros(3, np.float32)] * 3, _scores(4)])
def test_attachments_that_do_not_fit_the_blocks_are_refused(
    scene: Scene, arrays: list[Bytes]
) -> None:
    with scene.open() as store:
        space = store.space(identity())
        tokens = prompt(1, 3)
        with pytest.raises(ArgumentError, match="scores"):
            space.save(tokens, KeyedPages(space, tokens), attachments={"scores": arrays})
        assert store.stats().blocks == 0
        expect_no_lease(store)


def test_prefetch_brings_blocks_into_memory(scene: Scene) -> None:
    with scene.open() as store:
        space = store.space(identity())
        tokens = prompt(1, 6)
        save(space, tokens)
        fill_memory(store, space)
        assert space.prefetch(tokens) == 6
        expect_no_lease(store)
        with space.hold(space.match(tokens)) as hit:
            assert hit.from_disk == 0
            pages = KeyedPages(space, tokens)
            pages.check(hit.load(pages))
        assert space.prefetch(tokens) == 0
        store.audit()


def test_prefetch_of_what_is_not_stored_does_nothing(scene: Scene) -> None:
    with scene.open() as store:
        assert store.space(identity()).prefetch(prompt(1, 6)) == 0


def test_verbs_reach_blocks_with_extras(scene: Scene) -> None:
    extras = {0: b"image"}
    with scene.open() as store:
        space = store.space(identity())
        tokens = prompt(1, 3)
        space.save(tokens, KeyedPages(space, tokens, extras=extras), extras=extras)
        assert space.pin(tokens, 60, extras=extras) == 3
        assert space.pin(tokens, 60) == 0
        assert space.unpin(tokens, extras=extras) == 3
        assert space.tag(tokens, ["t"], extras=extras) == 3
        assert space.drop(prefix=tokens, extras=extras).blocks == 1


def test_the_verbs_count_the_blocks_that_they_reached(scene: Scene) -> None:
    with scene.open() as store:
        space = store.space(identity())
        save(space, prompt(1, 3))
        longer = prompt(1, 3)[:192] + prompt(2, 3)
        assert space.pin(longer, 60) == 3
        assert store.stats().pinned_blocks == 3
        assert space.tag(longer, ["x"]) == 3
        assert space.unpin(longer) == 3
        assert store.stats().pinned_blocks == 0


def test_stats_add_up(scene: Scene) -> None:
    with scene.open() as store:
        space = store.space(identity())
        save(space, prompt(1, 4))
        store.flush()
        restore(space, prompt(1, 4))
        stats = store.stats()
        assert stats.blocks == 4
        assert stats.dirty_blocks == 0
        for name in ("host", "disk"):
            line = tier(stats, name)
            assert (line.blocks, line.payload_bytes) == (4, 4 * FRAME_BYTES)
            assert line.payload_bytes <= line.used_bytes <= line.capacity_bytes
            assert (line.leased, line.degraded) == (0, "")
        counts = stats.counts
        assert counts["saved"] == counts["demoted"] == 4
        assert counts["saved_bytes"] == counts["demoted_bytes"] == 4 * FRAME_BYTES
        assert counts["loaded"] == [4, 0]
        assert counts["loaded_bytes"] == [4 * FRAME_BYTES, 0]
        assert counts["loaded_tokens"] == 256


VERBS: dict[str, Callable[[Store, Space], object]] = {
    "match": lambda _, space: space.match(prompt(1, 2)),
    "save": lambda _, space: save(space, prompt(1, 2)),
    "pin": lambda _, space: space.pin(prompt(1, 2), 5),
    "unpin": lambda _, space: space.unpin(prompt(1, 2)),
    "tag": lambda _, space: space.tag(prompt(1, 2), ["x"]),
    "prefetch": lambda _, space: space.prefetch(prompt(1, 2)),
    "explain": lambda _, space: space.explain(prompt(1, 2)),
    "drop a prefix": lambda _, space: space.drop(prefix=prompt(1, 2)),
    "drop a tag": lambda _, space: space.drop(tag="x"),
    "space": lambda store, _: store.space(identity()),
    "stats": lambda store, _: store.stats(),
    "flush": lambda store, _: store.flush(),
    "expire": lambda store, _: store.expire(),
    "drop a tenant": lambda store, _: store.drop_tenant("x"),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_after_close_is_refused(scene: Scene, verb: str) -> None:
    store = scene.open()
    space = store.space(identity())
    save(space, prompt(1, 2))
    store.close()
    store.close()
    with pytest.raises(StoreClosedError):
        VERBS[verb](store, space)


def test_a_plan_cannot_be_held_after_close(scene: Scene) -> None:
    with scene.open() as store:
        space = store.space(identity())
        save(space, prompt(1, 2))
        plan = space.match(prompt(1, 2))
    with pytest.raises(StoreClosedError):
        space.hold(plan)


def test_a_tag_that_could_not_be_written_is_written_once_the_disk_is_well(scene: Scene) -> None:
    disk = FaultyDisk("headers.kvs")
    tokens = prompt(1, 2)
    with scene.open(disk.open) as store:
        space = store.space(identity())
        save(space, tokens)
        assert store.flush()
        disk.fail("write", error=errno.EIO)
        assert space.tag(tokens, ["late"]) == 2
        assert not store.flush()
        disk.mend()
        scene.clock.advance(200)
        eventually(lambda: not tier(store.stats(), "disk").degraded)
        assert store.flush()
    with scene.open() as store:
        assert store.space(identity()).drop(tag="late").blocks == 2
