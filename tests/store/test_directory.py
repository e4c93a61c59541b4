"""One directory: who has it, how large it is, over how many disks it is striped."""

import os
import shutil
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from kvstrata.kvstore.errors import SettingsError, StoreBusyError
from tests.store import slabs
from tests.store.kit import (
    FRAME_BYTES,
    MIB,
    Clock,
    Scene,
    fill_memory,
    identity,
    prompt,
    restore,
    save,
    tier,
)

ROOT = Path(__file__).parents[2]


def test_a_directory_in_use_is_refused_with_the_process_that_has_it(scene: Scene) -> None:
    with scene.open(), pytest.raises(StoreBusyError, match=rf"process {os.getpid()}\b"):
        scene.open()
    with scene.open():  # and is free again at once
        pass


def test_another_process_is_told_who_has_the_directory(scene: Scene) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from kvstrata.kvstore.settings import Settings\n"
        "from kvstrata.kvstore.store import Store\n"
        "from kvstrata.kvstore.errors import StoreBusyError\n"
        "try: Store(Settings(dir=Path(sys.argv[1]), memory=8 << 20, disk=32 << 20))\n"
        "except StoreBusyError as error: print(error)\n"
    )
    with scene.open():
        answer = subprocess.run(
            [sys.executable, "-c", code, str(scene.dir)],
            env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    assert f"in use by process {os.getpid()}" in answer.stdout


def test_two_directories_are_two_stores(scene: Scene, tmp_path: Path) -> None:
    with scene.open() as one, replace(scene, dir=tmp_path / "other").open() as other:
        save(one.space(identity()), prompt(1, 2))
        assert restore(other.space(identity()), prompt(1, 2)) == 0


def test_a_store_that_could_not_open_leaves_the_directory_free(scene: Scene) -> None:
    with pytest.raises(SettingsError, match="memory"):
        replace(scene, memory=MIB, disk=1024 * MIB).open()
    with scene.open() as store:
        assert save(store.space(identity()), prompt(1, 2)) == 2


def test_nobody_else_may_read_what_is_stored(scene: Scene) -> None:
    with scene.open() as store:
        save(store.space(identity()), prompt(1, 2))
        store.space(identity()).drop(prefix=prompt(1, 2))
    assert stat.S_IMODE(scene.dir.stat().st_mode) == 0o700
    for path in scene.dir.rglob("*"):
        expected = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == expected, path


@pytest.mark.parametrize("disk", [32, 48, 21, 12])
def test_a_changed_disk_size_keeps_what_fits(scene: Scene, disk: int) -> None:
    names = range(60)
    with scene.open() as store:
        space = store.space(identity())
        for name in names:
            save(space, prompt(name, 2))
            assert store.flush()
        keys = {name: space.match(prompt(name, 2)).keys for name in names}
    frames = {frame.key: frame for frame in slabs.frames(scene.dir)}
    with replace(scene, disk=disk * MIB).open() as store:
        space = store.space(identity())
        pages = tier(store.stats(), "disk").capacity_bytes // slabs.PAGE
        slots = (scene.dir / "headers.kvs").stat().st_size // slabs.SLOT - 1
        expected = {
            name
            for name in names
            if all(
                frames[key].slot < slots and all(p + n <= pages for p, n in frames[key].extents)
                for key in keys[name]
            )
        }
        assert {name for name in names if restore(space, prompt(name, 2)) == 128} == expected
        assert expected
        store.audit()
    with scene.open() as store:
        space = store.space(identity())
        for name in expected:
            assert restore(space, prompt(name, 2)) == 128
        store.audit()


def test_a_disk_that_grew_takes_more(scene: Scene) -> None:
    with replace(scene, disk=12 * MIB).open() as store:
        save(store.space(identity()), prompt(1, 4))
    with replace(scene, disk=48 * MIB).open() as store:
        space = store.space(identity())
        fill_memory(store, space)
        for name in range(200):
            save(space, prompt(1000 + name, 1))
            assert name % 8 or store.flush()
        assert store.flush()
        assert tier(store.stats(), "disk").blocks > 200
        assert restore(space, prompt(1, 4)) == 256


def _striped(scene: Scene, number: int = 3) -> Scene:
    return replace(scene, stripes=tuple(scene.dir / f"disk{n}" for n in range(number)))


def test_several_stripes_share_the_load(scene: Scene) -> None:
    scene = _striped(scene)
    with scene.open() as store:
        space = store.space(identity())
        for name in range(10):
            save(space, prompt(name, 3))
        assert store.flush()
        store.audit()
    shares = [sum(1 for _ in slabs.frames(stripe)) for stripe in scene.stripes]
    assert sum(shares) == 30
    assert min(shares) >= 8
    for _ in range(2):
        with scene.open() as store:
            space = store.space(identity())
            assert [restore(space, prompt(name, 3)) for name in range(10)] == [192] * 10
        shutil.rmtree(scene.dir / "index")


def test_stripes_in_another_order_are_the_same_stripes(scene: Scene) -> None:
    scene = _striped(scene)
    with scene.open() as store:
        save(store.space(identity()), prompt(1, 9))
    turned = replace(scene, stripes=scene.stripes[1:] + scene.stripes[:1])
    with turned.open() as store:
        assert restore(store.space(identity()), prompt(1, 9)) == 9 * 64
        store.audit()


@pytest.mark.parametrize("is_forgotten", [False, True])
def test_a_missing_stripe_keeps_the_rest(scene: Scene, is_forgotten: bool) -> None:
    """Its directory is empty, or the settings do not name it any more."""
    scene = _striped(scene)
    with scene.open() as store:
        space = store.space(identity())
        for name in range(12):
            save(space, prompt(name, 1))
            assert store.flush()
    lost = scene.stripes[1]
    kept = {frame.key for d in scene.stripes if d != lost for frame in slabs.frames(d)}
    shutil.rmtree(lost)
    if is_forgotten:
        share = scene.disk // 3
        scene = replace(scene, stripes=(scene.stripes[0], scene.stripes[2]), disk=2 * share)
    with scene.open() as store:
        space = store.space(identity())
        found = {name for name in range(12) if restore(space, prompt(name, 1)) == 64}
        assert found == {n for n in range(12) if space.match(prompt(n, 1)).keys[0] in kept}
        assert len(found) == 8
        assert [save(space, prompt(name, 1)) for name in range(12)] == [1] * 12
        assert store.flush()
        store.audit()


def test_a_stripe_that_comes_back_brings_nothing_that_was_dropped(scene: Scene) -> None:
    scene = _striped(scene, 2)
    with scene.open() as store:
        space = store.space(identity())
        for name in range(8):
            save(space, prompt(name, 1))
            assert store.flush()
        keys = {name: space.match(prompt(name, 1)).keys[0] for name in range(8)}
    away, here = scene.stripes
    on_away = {frame.key for frame in slabs.frames(away)} & set(keys.values())
    assert 0 < len(on_away) < 8
    hidden = scene.dir / "unplugged"
    away.rename(hidden)
    alone = replace(scene, stripes=(here,), disk=scene.disk // 2)
    with alone.open() as store:
        assert store.drop_tenant("").blocks == 8 - len(on_away)
    hidden.rename(away)
    with scene.open() as store:
        space = store.space(identity())
        assert [restore(space, prompt(name, 1)) for name in range(8)] == [0] * 8


def test_a_store_without_a_disk_leaves_no_files(tmp_path: Path, clock: Clock) -> None:
    with Scene(tmp_path / "none", clock, disk=0).open() as store:
        save(store.space(identity()), prompt(1, 2))
        assert restore(store.space(identity()), prompt(1, 2)) == 128
        assert store.stats().tiers[0].used_bytes == 2 * FRAME_BYTES
        assert len(store.stats().tiers) == 1
    assert list((tmp_path / "none").iterdir()) == []
