"""What is saved comes back byte for byte: from memory, from disk, after a restart."""

import shutil
import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from kvstrata.kvstore.explain import Cause
from kvstrata.kvstore.identity import Identity, private_weights
from kvstrata.kvstore.layout import Group, Layout, Part
from kvstrata.kvstore.space import Space
from kvstrata.kvstore.store import Store
from tests.store import slabs
from tests.store.kit import (
    FRAME_BYTES,
    FULL,
    LAYOUTS,
    MIB,
    Bytes,
    Crowd,
    KeyedPages,
    Scene,
    content,
    count,
    fill_memory,
    identity,
    prompt,
    restore,
    restored_from_disk,
    save,
    smooth,
    tier,
)


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> Layout:
    return LAYOUTS[request.param]


def test_what_is_saved_is_restored_from_memory(scene: Scene, layout: Layout) -> None:
    with replace(scene, disk=0).open() as store:
        space = store.space(identity(layout))
        tokens = prompt(1, 6, layout=layout)
        assert restore(space, tokens) == 0
        assert save(space, tokens) == 6
        assert restore(space, tokens) == 6 * layout.block_tokens
        store.audit()


def test_what_left_memory_is_restored_from_disk(scene: Scene, layout: Layout) -> None:
    with scene.open() as store:
        space = store.space(identity(layout))
        tokens = prompt(1, 6, layout=layout)
        save(space, tokens)
        fill_memory(store, space)
        assert restored_from_disk(space, tokens) >= 6
        assert restored_from_disk(space, tokens) == 0  # in memory again
        store.audit()


def test_what_is_saved_is_restored_after_a_restart(scene: Scene, layout: Layout) -> None:
    tokens = prompt(1, 6, layout=layout)
    with scene.open() as store:
        save(store.space(identity(layout)), tokens)
    for _ in range(2):
        with scene.open() as store:
            assert restore(store.space(identity(layout)), tokens) == 6 * layout.block_tokens
            store.audit()


def test_what_is_saved_is_restored_after_the_index_is_deleted(scene: Scene, layout: Layout) -> None:
    tokens = prompt(1, 6, layout=layout)
    with scene.open() as store:
        save(store.space(identity(layout)), tokens)
    for _ in range(2):
        shutil.rmtree(scene.dir / "index")
        with scene.open() as store:
            assert restore(store.space(identity(layout)), tokens) == 6 * layout.block_tokens
            store.audit()


def test_a_conversation_grows_turn_by_turn(scene: Scene, layout: Layout) -> None:
    with scene.open() as store:
        space = store.space(identity(layout))
        tokens: list[int] = []
        for turn in range(5):
            before = len(tokens) // layout.block_tokens
            tokens = tokens[: before * layout.block_tokens] + prompt(turn, 2, layout=layout)
            pages = KeyedPages(space, tokens)
            assert space.save(tokens, pages, start=before * layout.block_tokens) == before + 2
            assert restore(space, tokens) == (before + 2) * layout.block_tokens
    with scene.open() as store:
        assert restore(store.space(identity(layout)), tokens) == 10 * layout.block_tokens


def test_layers_can_be_restored_a_few_at_a_time(scene: Scene, layout: Layout) -> None:
    with scene.open() as store:
        space = store.space(identity(layout))
        tokens = prompt(1, 4, layout=layout)
        save(space, tokens)
        pages = KeyedPages(space, tokens)
        layers = max(len(group.layers) for group in layout.groups)
        with space.hold(space.match(tokens)) as hit:
            for first in range(layers):
                hit.load(pages, layers=(first, first + 1))
            pages.check(hit.tokens)


def test_another_model_finds_nothing(scene: Scene) -> None:
    with scene.open() as store:
        tokens = prompt(1, 4)
        save(store.space(identity()), tokens)
        assert store.space(identity(model=2)).match(tokens).tokens == 0
        assert store.space(identity(tenant="other")).match(tokens).tokens == 0


def test_saving_again_stores_nothing_new(scene: Scene) -> None:
    with scene.open() as store:
        space = store.space(identity())
        tokens = prompt(1, 5)
        save(space, tokens)
        pages = KeyedPages(space, tokens)
        assert space.save(tokens, pages) == 5
        assert pages.gathered == 0
        assert store.stats().blocks == 5
        assert count(store, "already_stored") == 5


def test_blocks_without_their_past_are_not_saved(scene: Scene) -> None:
    with scene.open() as store:
        space = store.space(identity())
        tokens = prompt(1, 5)
        assert space.save(tokens, KeyedPages(space, tokens), start=128) == 0
        assert store.stats().blocks == 0


def test_nothing_is_saved_of_a_prompt_shorter_than_a_block(scene: Scene) -> None:
    with scene.open() as store:
        space = store.space(identity())
        assert save(space, range(63)) == 0
        assert restore(space, range(63)) == 0
        assert save(space, []) == 0


def test_extras_are_part_of_what_is_found(scene: Scene) -> None:
    tokens = prompt(1, 3)
    with scene.open() as store:
        space = store.space(identity())
        space.save(tokens, KeyedPages(space, tokens, extras={1: b"cat"}), extras={1: b"cat"})
    with scene.open() as store:
        space = store.space(identity())
        assert space.match(tokens).tokens == 64
        assert space.match(tokens, extras={1: b"dog"}).tokens == 64
        plan = space.match(tokens, extras={1: b"cat"})
        assert plan.tokens == 192
        pages = KeyedPages(space, tokens, extras={1: b"cat"})
        with space.hold(plan) as hit:
            pages.check(hit.load(pages))


def test_long_blocks_keep_their_tokens_in_the_payload(scene: Scene) -> None:
    layout = Layout((Group((0,), heads=1, head_dim=16, dtype="float32"),), block_tokens=2048)
    tokens = prompt(1, 3, layout=layout)
    for attempt in range(3):
        if attempt == 2:
            shutil.rmtree(scene.dir / "index")
        with scene.open() as store:
            space = store.space(identity(layout))
            if not attempt:
                save(space, tokens)
            assert restore(space, tokens) == 3 * 2048


def test_an_encoded_disk_gives_back_the_exact_bytes(scene: Scene) -> None:
    layout = LAYOUTS["latent"]
    tokens = prompt(1, 6, layout=layout)
    coded = replace(scene, codec="plane-huff")
    with coded.open() as store:
        space = store.space(identity(layout))
        space.save(tokens, KeyedPages(space, tokens, fill=smooth))
        assert store.flush()
        disk = tier(store.stats(), "disk")
        assert disk.payload_bytes < 0.75 * tier(store.stats(), "host").payload_bytes
    for scene in (coded, replace(coded, codec="raw")):
        with scene.open() as store:
            space = store.space(identity(layout))
            pages = KeyedPages(space, tokens, fill=smooth)
            with space.hold(space.match(tokens)) as hit:
                assert hit.load(pages) == 6 * layout.block_tokens
                pages.check(hit.tokens)


def test_one_layer_of_an_encoded_block_is_restored_alone(scene: Scene) -> None:
    layout = LAYOUTS["latent"]
    tokens = prompt(1, 2, layout=layout)
    with replace(scene, codec="plane-huff").open() as store:
        space = store.space(identity(layout))
        space.save(tokens, KeyedPages(space, tokens, fill=smooth))
    with scene.open() as store:
        space = store.space(identity(layout))
        pages = KeyedPages(space, tokens, fill=smooth)
        with space.hold(space.match(tokens)) as hit:
            for first in (2, 0, 3, 1):
                hit.load(pages, layers=(first, first + 1))
            pages.check(hit.tokens)


def _mixed() -> list[Layout]:
    """Models whose frames have 20, 36, 100 and 260 KiB."""
    sizes = [(5, 32), (9, 32), (25, 32), (65, 32)]
    return [
        Layout((Group((0,), heads=heads, head_dim=dim, dtype="float16"),), block_tokens=32)
        for heads, dim in sizes
    ]


def _churn(store: Store, rounds: int, seed: int) -> list[tuple[Layout, list[int]]]:
    random = np.random.default_rng(seed)
    saved = []
    for number in range(rounds):
        layout = _mixed()[random.integers(4)]
        tokens = prompt(number, int(random.integers(1, 6)), layout=layout)
        space = store.space(identity(layout, model=layout.groups[0].heads))
        save(space, tokens)
        saved.append((layout, tokens))
        if not number % 7:
            store.flush()
    store.flush()
    return saved


def test_blocks_of_mixed_sizes_in_fragmented_slabs_keep_their_bytes(scene: Scene) -> None:
    scene = replace(scene, memory=5 * MIB, disk=12 * MIB)
    with scene.open() as store:
        saved = _churn(store, rounds=120, seed=7)
        hits = 0
        for layout, tokens in saved:
            hits += restore(store.space(identity(layout, model=layout.groups[0].heads)), tokens)
            store.audit()
        assert hits
    assert any(len(frame.extents) > 1 for frame in slabs.frames(scene.dir))
    with scene.open() as store:
        found = [
            restore(store.space(identity(layout, model=layout.groups[0].heads)), tokens)
            for layout, tokens in saved
        ]
        assert sum(found)
        assert count(store, "quarantined") == 0


def test_write_none_keeps_everything_in_memory(scene: Scene) -> None:
    scene = replace(scene, write="none")
    with scene.open() as store:
        space = store.space(identity())
        save(space, prompt(1, 4))
        store.flush()
        assert tier(store.stats(), "disk").blocks == 0
        assert restore(space, prompt(1, 4)) == 256
    with scene.open() as store:
        assert restore(store.space(identity()), prompt(1, 4)) == 0


def test_what_is_private_never_reaches_the_disk(scene: Scene) -> None:
    secret = identity(weights=private_weights())
    with scene.open() as store:
        space = store.space(secret)
        tokens = prompt(1, 4)
        assert save(space, tokens) == 4
        assert store.flush()
        assert tier(store.stats(), "disk").blocks == 0
        assert restore(space, tokens) == 256
        keys = space.match(tokens).keys
        fill_memory(store, store.space(identity()))
        assert restore(space, tokens) == 0
    on_disk = (scene.dir / "pages.kvs").read_bytes()
    for key in keys:
        assert content(key, Part(0, 0), FRAME_BYTES)[:64].tobytes() not in on_disk
    assert {frame.key for frame in slabs.frames(scene.dir)}.isdisjoint(keys)


@pytest.mark.parametrize("disk", [0, 32 * MIB])
def test_a_block_on_its_way_is_neither_explained_away_nor_collected(
    scene: Scene, disk: int
) -> None:
    tokens = prompt(1, 1)
    causes: list[Cause] = []
    with replace(scene, disk=disk).open() as store:
        space = store.space(identity())

        class Curious(KeyedPages):
            def gather(self, part: Part, blocks: Sequence[int], into: Sequence[Bytes]) -> None:
                super().gather(part, blocks, into)
                causes.extend(space.explain(each).cause for each in (tokens, prompt(2, 1)))
                assert not list(store.collect(space.identity))

        assert space.save(tokens, Curious(space, tokens)) == 1
        assert causes == [Cause.PENDING, Cause.NOT_STORED]
        assert len(list(store.collect(space.identity))) == 1


@pytest.mark.usefixtures("restless")
def test_threads_that_ask_at_once_get_one_space(scene: Scene) -> None:
    identities = [identity(model=model) for model in range(1, 100)]
    with scene.open() as store:
        ready, answers = threading.Barrier(2), list[list[Space]]()
        with Crowd() as crowd:
            for _ in range(2):
                crowd.start(partial(_ask, store, identities, ready, answers))
        assert all(one is other for one, other in zip(*answers, strict=True))


def _ask(
    store: Store,
    identities: Sequence[Identity],
    ready: threading.Barrier,
    answers: list[list[Space]],
) -> None:
    spaces = []
    for each in identities:
        ready.wait()
        spaces.append(store.space(each))
    answers.append(spaces)


def test_two_spaces_of_one_identity_are_one(scene: Scene) -> None:
    with scene.open() as store:
        assert store.space(identity()) is store.space(identity())
        assert store.space(identity()) is not store.space(identity(FULL, model=2))
