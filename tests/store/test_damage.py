"""Damaged, swapped, truncated and outdated files: a miss is fine, a wrong byte is not.

Whatever was done to the files, the store opens, serves right bytes or none, and stores again.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import lmdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.store import slabs
from tests.store.kit import (
    WINDOW,
    Clock,
    KeyedPages,
    Scene,
    count,
    identity,
    prompt,
    restore,
    save,
)

ROOT = Path(__file__).parents[2]
BLOCKS = 4


def _prepare(scene: Scene, blocks: int = BLOCKS) -> list[int]:
    """One prompt on disk."""
    tokens = prompt(1, blocks)
    with scene.open() as store:
        space = store.space(identity())
        pages = KeyedPages(space, tokens)
        space.save(tokens, pages, tags=["a"])
    return tokens


def _still_works(scene: Scene, tokens: list[int]) -> int:
    """Open, restore what there is, store it again; the tokens that were found at first."""
    with scene.open() as store:
        space = store.space(identity())
        found = restore(space, tokens)
        store.audit()
        assert save(space, tokens) == len(tokens) // 64
        assert restore(space, tokens) == len(tokens) // 64 * 64
        assert save(space, prompt(2, 3)) == 3
        assert store.flush()
        store.audit()
    with scene.open() as store:
        assert restore(store.space(identity()), tokens) == len(tokens) // 64 * 64
        assert restore(store.space(identity()), prompt(2, 3)) == 192
    return found


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
    tokens = _prepare(scene)
    with scene.open() as store:
        key = store.space(identity()).match(tokens).keys[2]
    frame = slabs.find(scene.dir, key)
    slabs.flip(scene.dir / "headers.kvs", frame.header_at + HEADER_FIELDS[field])
    if not is_indexed:
        shutil.rmtree(scene.dir / "index")
    assert _still_works(scene, tokens) == 128


@pytest.mark.parametrize("at", [0, 1, 4095, 4096, 16383, 16384, 65536, (128 << 10) - 1])
def test_a_flipped_bit_in_a_payload_is_a_miss(scene: Scene, at: int) -> None:
    tokens = _prepare(scene)
    with scene.open() as store:
        key = store.space(identity()).match(tokens).keys[1]
    slabs.damage(slabs.find(scene.dir, key), at=at)
    assert _still_works(scene, tokens) == 64


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
            found = restore(space, tokens)
        assert found == 256


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
    tokens = _prepare(scene)
    other = replace(scene, dir=tmp_path / "other")
    with other.open() as store:
        save(store.space(identity(model=2)), tokens)
    for name in names:
        shutil.copy(other.dir / name, scene.dir / name)
    if not is_indexed:
        shutil.rmtree(scene.dir / "index")
    assert _still_works(scene, tokens) == 0


def test_a_whole_stripe_of_another_store_is_taken_for_what_it_is(
    scene: Scene, tmp_path: Path
) -> None:
    """Slab and tombstones moved together are a stripe that came from elsewhere."""
    tokens = _prepare(scene)
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
    assert _still_works(scene, tokens) == 0


@pytest.mark.parametrize("name", ["pages.kvs", "headers.kvs"])
@pytest.mark.parametrize("length", [0, 1, 100, 4096, 5000, 12288, 100_000, 300_000])
def test_a_truncated_file_serves_what_is_left(scene: Scene, name: str, length: int) -> None:
    tokens = _prepare(scene)
    os.truncate(scene.dir / name, length)
    assert _still_works(scene, tokens) in range(0, 257, 64)


@pytest.mark.parametrize("name", ["pages.kvs", "headers.kvs", "tombstones.kvs", "index"])
def test_a_deleted_file_is_made_anew(scene: Scene, name: str) -> None:
    tokens = _prepare(scene)
    if name == "index":
        shutil.rmtree(scene.dir / name)
    else:
        (scene.dir / name).unlink()
    assert _still_works(scene, tokens) == (256 if name == "index" else 0)


@pytest.mark.parametrize("at", [0, 8, 12, 16, 20, 28, 36, 40, 52, 68, 76, 84])
def test_a_damaged_superblock_serves_no_wrong_byte(scene: Scene, at: int) -> None:
    tokens = _prepare(scene)
    slabs.flip(scene.dir / "headers.kvs", at)
    assert _still_works(scene, tokens) in range(0, 257, 64)


@pytest.mark.parametrize("at", [0, 9, 20, 39, 40, 60, 80, 120])
def test_a_damaged_log_of_drops_brings_nothing_back(scene: Scene, at: int) -> None:
    tokens = _prepare(scene)
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
    assert _still_works(scene, tokens) == 0  # nobody knows what was dropped


def _older_index(scene: Scene, work: Callable[[Scene], None]) -> None:
    """Put back the index as it was before some work."""
    aside = scene.dir.with_name("older")
    shutil.copytree(scene.dir / "index", aside)
    work(scene)
    shutil.rmtree(scene.dir / "index")
    shutil.move(aside, scene.dir / "index")


def test_an_index_that_is_older_than_the_data_serves_no_wrong_byte(scene: Scene) -> None:
    """Since the index was copied, every slot and page was used again for other prompts."""
    scene = replace(scene, memory=4 << 20, disk=8 << 20)
    with scene.open() as store:
        for name in range(40):
            save(store.space(identity()), prompt(name, 1))
            store.flush()

    def work(scene: Scene) -> None:
        with scene.open() as store:
            space = store.space(identity())
            for name in range(100, 200):
                save(space, prompt(name, 1))
                assert name % 8 or store.flush()

    _older_index(scene, work)
    with scene.open() as store:
        space = store.space(identity())
        believed = [n for n in range(40) if space.match(prompt(n, 1)).tokens]
        assert believed
        assert sum(restore(space, prompt(name, 1)) for name in believed) == 0
        assert count(store, "quarantined") == len(believed)
        store.audit()
        for name in range(300, 400):
            save(space, prompt(name, 1))
            assert name % 8 or store.flush()
        assert store.flush()
        store.audit()
    with scene.open() as store:
        space = store.space(identity())
        assert sum(restore(space, prompt(name, 1)) for name in range(300, 400)) >= 40 * 64


def test_an_older_index_brings_back_no_dropped_block(scene: Scene) -> None:
    tokens = _prepare(scene)

    def work(scene: Scene) -> None:
        with scene.open() as store:
            assert store.space(identity()).drop(prefix=tokens[:64]).blocks == BLOCKS

    _older_index(scene, work)
    with scene.open() as store:
        assert store.space(identity()).match(tokens).tokens == 0
    shutil.rmtree(scene.dir / "index")
    assert _still_works(scene, tokens) == 0


def test_an_older_index_and_then_none_loses_nothing_that_was_flushed(scene: Scene) -> None:
    """What was written under the older index has newer generations than all that lay unseen."""
    scene = replace(scene, memory=4 << 20, disk=8 << 20)
    with scene.open() as store:
        for name in range(20):
            save(store.space(identity()), prompt(name, 1))
            store.flush()

    def work(scene: Scene) -> None:
        for start in (100, 200, 300):
            with scene.open() as store:
                for name in range(start, start + 60):
                    save(store.space(identity()), prompt(name, 1))
                    store.flush()

    _older_index(scene, work)
    with scene.open() as store:
        space = store.space(identity())
        for name in range(400, 440):
            save(space, prompt(name, 1))
            assert store.flush()
        last = [n for n in range(400, 440) if space.match(prompt(n, 1)).tokens]
    shutil.rmtree(scene.dir / "index")
    with scene.open() as store:
        space = store.space(identity())
        found = [n for n in range(400, 440) if restore(space, prompt(n, 1))]
        assert found == last


def test_an_index_of_another_store_is_not_believed(scene: Scene, tmp_path: Path) -> None:
    tokens = _prepare(scene)
    other = replace(scene, dir=tmp_path / "other")
    with other.open() as store:
        save(store.space(identity()), prompt(9, 6))
    shutil.rmtree(scene.dir / "index")
    shutil.copytree(other.dir / "index", scene.dir / "index")
    with scene.open() as store:
        assert store.space(identity()).match(prompt(9, 6)).tokens == 0
    assert _still_works(scene, tokens) == 256


@pytest.mark.parametrize("text", [b"", b"x", b"no index of ours" * 1000])
def test_an_index_that_is_none_is_made_anew(scene: Scene, text: bytes) -> None:
    tokens = _prepare(scene)
    (scene.dir / "index" / "data.mdb").write_bytes(text)
    assert _still_works(scene, tokens) == 256


@pytest.mark.parametrize("record", [b"", b"\0", b"\0" * 5, b"\xff" * 300, bytes(30)])
def test_a_record_that_is_none_is_passed_over(scene: Scene, record: bytes) -> None:
    tokens = _prepare(scene)
    env = lmdb.open(str(scene.dir / "index"), max_dbs=2)
    frames = env.open_db(b"frames")
    with env.begin(write=True, db=frames) as txn:
        for fid in (b"f" * 34, b"short", b"x" * 100):
            txn.put(fid, record)
        stored = [(bytes(fid), bytes(value)) for fid, value in txn.cursor()]
        txn.put(b"g" * 34, stored[0][1])  # a good record under another name
    env.close()
    assert _still_works(scene, tokens) == 256


_REOPEN = """
import sys
from pathlib import Path
from tests.store.kit import Clock, Scene, identity, prompt, restore, save
scene = Scene(Path(sys.argv[1]), Clock())
with scene.open() as store:
    space = store.space(identity())
    found = restore(space, prompt(1, 4))
    assert save(space, prompt(1, 4)) == 4
    assert restore(space, prompt(1, 4)) == 256
print("found", found)
"""


@pytest.mark.parametrize("length", [4096, 8192, 12288, 20480])
def test_a_truncated_index_does_not_end_the_process(scene: Scene, length: int) -> None:
    """LMDB maps its file: a page that is cut off would be a signal, so it runs in a child."""
    _prepare(scene)
    os.truncate(scene.dir / "index" / "data.mdb", length)
    child = subprocess.run(
        [sys.executable, "-c", _REOPEN, str(scene.dir)],
        env=os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (child.returncode, child.stdout) == (0, "found 256\n"), child.stderr[-2000:]


def test_the_index_may_go_between_any_two_openings(scene: Scene) -> None:
    for name in range(4):
        with scene.open() as store:
            space = store.space(identity())
            assert [restore(space, prompt(n, 2)) for n in range(name)] == [128] * name
            save(space, prompt(name, 2))
        shutil.rmtree(scene.dir / "index")
