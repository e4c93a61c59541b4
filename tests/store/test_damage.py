"""Damaged, swapped, truncated and outdated files: a miss is fine, a wrong byte is not.

Whatever was done to the files, the store opens, serves right bytes or none, and stores again.
"""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.store import slabs
from tests.store.damaged import prepare, still_works
from tests.store.kit import (
    WINDOW,
    Clock,
    Scene,
    identity,
    prompt,
    restore,
    save,
)

HEADER_FIELDS = {
    "magic": 0, "checksum": 8, "version": 16, "flags": 18, "length": 20, "key": 24, "parent": 56,
    "root": 88, "tenant": 104, "group": 120, "shard": 121, "shards": 122, "fidelity": 123,
    "kind": 124, "zero": 125, "tokens": 128, "inline": 132, "position": 136, "generation": 144,
    "expiry": 152, "saved": 160, "payload": 168, "segments": 176, "extents": 178, "zeros": 180,
    "meta row": 192, "base row": 232, "base offset": 248, "base length": 256, "base sum": 264,
    "page": 272, "pages": 276, "token count": 280, "first token": 284, "last token": 536,
    "extras": 540, "tags": 544,
}  # fmt: skip


@pytest.mark.parametrize("is_indexed", [True, False], ids=["index", "no index"])
@pytest.mark.parametrize("field", HEADER_FIELDS)
def test_a_flipped_bit_in_a_header_is_a_miss(scene: Scene, field: str, is_indexed: bool) -> None:
    tokens = prepare(scene)
    with scene.open() as store:
        key = store.space(identity()).match(tokens).keys[2]
    frame = slabs.find(scene.dir, key)
    slabs.flip(scene.dir / "headers.kvs", frame.header_at + HEADER_FIELDS[field])
    if not is_indexed:
        shutil.rmtree(scene.dir / "index")
    assert still_works(scene, tokens) == 128


@pytest.mark.parametrize("at", [0, 1, 4095, 4096, 16383, 16384, 65536, (128 << 10) - 1])
def test_a_flipped_bit_in_a_payload_is_a_miss(scene: Scene, at: int) -> None:
    tokens = prepare(scene)
    with scene.open() as store:
        key = store.space(identity()).match(tokens).keys[1]
    slabs.damage(slabs.find(scene.dir, key), at=at)
    assert still_works(scene, tokens) == 64


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """A small store with three prompts of two groups, to be copied and damaged."""
    scene = Scene(tmp_path_factory.mktemp("damage") / "store", Clock(), disk=8 << 20)
    with scene.open() as store:
        for name in range(3):
            save(store.space(identity(WINDOW)), prompt(name, 4, layout=WINDOW))
    return scene


def _copy(scene: Scene, to: Path) -> Scene:
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(scene.dir, to)
    return replace(scene, dir=to)


def _serves_no_wrong_byte(scene: Scene) -> None:
    with scene.open() as store:
        space = store.space(identity(WINDOW))
        for name in range(3):
            assert restore(space, prompt(name, 4, layout=WINDOW)) in range(0, 257, 64)
            store.audit()
        tokens = prompt(0, 4, layout=WINDOW)
        for _ in range(2):  # damage of a block that nobody could reach before shows only now
            assert save(space, tokens) == 4
            if restore(space, tokens) == 256:
                return
        raise AssertionError("what was damaged is not replaced")


@settings(
    deadline=None,
    max_examples=max(60, settings().max_examples // 2),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_no_damage_whatever_makes_it_serve_a_wrong_byte(
    original: Scene, tmp_path: Path, data: st.DataObject
) -> None:
    scene = _copy(original, tmp_path / "copy")
    frames = list(slabs.frames(scene.dir))
    for _ in range(data.draw(st.integers(1, 6), label="damages")):
        frame = data.draw(st.sampled_from(frames), label="frame")
        mask = data.draw(st.integers(1, 255), label="mask")
        if data.draw(st.booleans(), label="in the header"):
            at = frame.header_at + data.draw(st.integers(0, 1023), label="at")
            slabs.flip(scene.dir / "headers.kvs", at, mask=mask)
        else:
            at = frame.payload_at(data.draw(st.integers(0, frame.payload - 1), label="at"))
            slabs.flip(scene.dir / "pages.kvs", at, mask=mask)
    if data.draw(st.booleans(), label="index deleted"):
        shutil.rmtree(scene.dir / "index")
    _serves_no_wrong_byte(scene)


@settings(
    deadline=None,
    max_examples=max(30, settings().max_examples // 4),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_headers_that_change_places_serve_no_wrong_byte(
    original: Scene, tmp_path: Path, data: st.DataObject
) -> None:
    """Whole headers and whole payloads that are swapped: each is right, but not there."""
    scene = _copy(original, tmp_path / "copy")
    frames = list(slabs.frames(scene.dir))
    headers = bytearray((scene.dir / "headers.kvs").read_bytes())
    pages = bytearray((scene.dir / "pages.kvs").read_bytes())
    pick = st.sampled_from(frames)
    for _ in range(data.draw(st.integers(1, 4), label="swaps")):
        one, other = data.draw(pick), data.draw(pick)
        if data.draw(st.booleans(), label="headers"):
            _swap(headers, one.header_at, other.header_at, slabs.SLOT)
        else:
            _swap(pages, one.payload_at(0), other.payload_at(0), 128 << 10)
    (scene.dir / "headers.kvs").write_bytes(headers)
    (scene.dir / "pages.kvs").write_bytes(pages)
    if data.draw(st.booleans(), label="index deleted"):
        shutil.rmtree(scene.dir / "index")
    _serves_no_wrong_byte(scene)


def _swap(data: bytearray, one: int, other: int, length: int) -> None:
    mine, its = data[one : one + length], data[other : other + length]
    data[one : one + length], data[other : other + length] = its, mine


@pytest.mark.parametrize("names", [("pages.kvs",), ("headers.kvs",), ("headers.kvs", "pages.kvs")])
@pytest.mark.parametrize("is_indexed", [True, False], ids=["index", "no index"])
def test_the_slab_of_another_model_serves_nothing(
    scene: Scene, tmp_path: Path, names: tuple[str, ...], is_indexed: bool
) -> None:
    """The same prompt of another model, in the same slots and pages."""
    tokens = prepare(scene)
    other = replace(scene, dir=tmp_path / "other")
    with other.open() as store:
        save(store.space(identity(model=2)), tokens)
    for name in names:
        shutil.copy(other.dir / name, scene.dir / name)
    if not is_indexed:
        shutil.rmtree(scene.dir / "index")
    assert still_works(scene, tokens) == 0


def test_a_whole_stripe_of_another_store_is_taken_for_what_it_is(
    scene: Scene, tmp_path: Path
) -> None:
    """Slab and tombstones moved together are a stripe that came from elsewhere."""
    tokens = prepare(scene)
    other = replace(scene, dir=tmp_path / "other")
    with other.open() as store:
        save(store.space(identity()), prompt(7, 2))
        save(store.space(identity()), prompt(8, 2))
        store.space(identity()).drop(prefix=prompt(8, 2))
    for path in other.dir.glob("*.kvs"):
        shutil.copy(path, scene.dir / path.name)
    with scene.open() as store:
        space = store.space(identity())
        assert restore(space, tokens) == 0
        assert restore(space, prompt(7, 2)) == 128
        assert restore(space, prompt(8, 2)) in (0, 64)
        store.audit()
    assert still_works(scene, tokens) == 0


@pytest.mark.parametrize("name", ["pages.kvs", "headers.kvs"])
@pytest.mark.parametrize("length", [0, 1, 100, 4096, 5000, 12288, 100_000, 300_000])
def test_a_truncated_file_serves_what_is_left(scene: Scene, name: str, length: int) -> None:
    tokens = prepare(scene)
    os.truncate(scene.dir / name, length)
    assert still_works(scene, tokens) in range(0, 257, 64)


@pytest.mark.parametrize("name", ["pages.kvs", "headers.kvs", "tombstones.kvs", "index"])
def test_a_deleted_file_is_made_anew(scene: Scene, name: str) -> None:
    tokens = prepare(scene)
    if name == "index":
        shutil.rmtree(scene.dir / name)
    else:
        (scene.dir / name).unlink()
    assert still_works(scene, tokens) == (256 if name == "index" else 0)


@pytest.mark.parametrize("at", [0, 8, 12, 16, 20, 28, 36, 40, 52, 68, 76, 84])
def test_a_damaged_superblock_serves_no_wrong_byte(scene: Scene, at: int) -> None:
    tokens = prepare(scene)
    slabs.flip(scene.dir / "headers.kvs", at)
    assert still_works(scene, tokens) in range(0, 257, 64)


@pytest.mark.parametrize("at", [0, 9, 20, 39, 40, 60, 80, 120])
def test_a_damaged_log_of_drops_brings_nothing_back(scene: Scene, at: int) -> None:
    tokens = prepare(scene)
    with scene.open() as store:
        space = store.space(identity())
        for name in (5, 6):
            save(space, prompt(name, 2))
        assert store.flush()
        aside = scene.dir / "aside.kvs"
        shutil.copy(scene.dir / "headers.kvs", aside)
        for name in (5, 6):
            space.drop(prefix=prompt(name, 1)[:64])
    aside.replace(scene.dir / "headers.kvs")  # as if the overwritten headers had been lost
    slabs.flip(scene.dir / "tombstones.kvs", at)
    with scene.open() as store:
        space = store.space(identity())
        assert restore(space, prompt(5, 2)) == restore(space, prompt(6, 2)) == 0
    assert still_works(scene, tokens) == 0  # nobody knows what was dropped
