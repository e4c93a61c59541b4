"""An index that is outdated, of another store, cut off or none is never believed for long."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import lmdb
import pytest

from tests.store.damaged import BLOCKS, prepare, still_works
from tests.store.kit import Scene, count, identity, prompt, restore, save

ROOT = Path(__file__).parents[2]


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
    tokens = prepare(scene)

    def work(scene: Scene) -> None:
        with scene.open() as store:
            assert store.space(identity()).drop(prefix=tokens[:64]).blocks == BLOCKS

    _older_index(scene, work)
    with scene.open() as store:
        assert store.space(identity()).match(tokens).tokens == 0
    shutil.rmtree(scene.dir / "index")
    assert still_works(scene, tokens) == 0


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
    tokens = prepare(scene)
    other = replace(scene, dir=tmp_path / "other")
    with other.open() as store:
        save(store.space(identity()), prompt(9, 6))
    shutil.rmtree(scene.dir / "index")
    shutil.copytree(other.dir / "index", scene.dir / "index")
    with scene.open() as store:
        assert store.space(identity()).match(prompt(9, 6)).tokens == 0
    assert still_works(scene, tokens) == 256


@pytest.mark.parametrize("text", [b"", b"x", b"no index of ours" * 1000])
def test_an_index_that_is_none_is_made_anew(scene: Scene, text: bytes) -> None:
    tokens = prepare(scene)
    (scene.dir / "index" / "data.mdb").write_bytes(text)
    assert still_works(scene, tokens) == 256


@pytest.mark.parametrize("record", [b"", b"\0", b"\0" * 5, b"\xff" * 300, bytes(30)])
def test_a_record_that_is_none_is_passed_over(scene: Scene, record: bytes) -> None:
    tokens = prepare(scene)
    env = lmdb.open(str(scene.dir / "index"), max_dbs=2)
    frames = env.open_db(b"frames")
    with env.begin(write=True, db=frames) as txn:
        for fid in (b"f" * 34, b"short", b"x" * 100):
            txn.put(fid, record)
        stored = [(bytes(fid), bytes(value)) for fid, value in txn.cursor()]
        txn.put(b"g" * 34, stored[0][1])  # a good record under another name
    env.close()
    assert still_works(scene, tokens) == 256


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
    prepare(scene)
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
