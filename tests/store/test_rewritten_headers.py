"""A header is written anew for what was said of its block since, and for that block alone."""

import errno
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from kvstrata.kvstore.files import BlockFile
from kvstrata.kvstore.layout import Part
from tests.store.faulty import FaultyDisk
from tests.store.kit import (
    ROUGH,
    Bytes,
    Clock,
    KeyedPages,
    Scene,
    eventually,
    identity,
    prompt,
    restore,
    save,
    tier,
)

TOKENS = prompt(1, 1)


def test_it_is_not_wiped_where_a_better_copy_came_meanwhile(scene: Scene, tmp_path: Path) -> None:
    """The worse copy is kept until the better one is written."""
    headers, pages = FaultyDisk("headers.kvs"), FaultyDisk("pages.kvs")

    def open_file(path: Path) -> BlockFile:
        return (headers if path.name == "headers.kvs" else pages).open(path)

    with scene.open(open_file) as store:
        space = store.space(identity())
        save(space, TOKENS, fidelity=ROUGH)
        assert store.flush()
        rewriting = headers.hang("write")
        space.tag(TOKENS, ["x"])
        rewriting.wait_for(1)
        writing = pages.hang("write")
        save(space, TOKENS)
        headers.mend()
        writing.wait_for(1)
        shutil.copytree(scene.dir, tmp_path / "crashed")
        pages.mend()
    with replace(scene, dir=tmp_path / "crashed").open() as store:
        assert restore(store.space(identity()), TOKENS) == 64


def test_a_tag_that_was_dropped_and_said_again_while_the_disk_is_away_keeps_its_block(
    scene: Scene, clock: Clock
) -> None:
    disk = FaultyDisk("pages.kvs")
    with scene.open(disk.open) as store:
        space = store.space(identity())
        disk.fail("write", error=errno.EIO)
        save(space, TOKENS)
        assert not store.flush()
        space.drop(tag="x")
        space.tag(TOKENS, ["x"])
        assert not store.flush()
        disk.mend()
        clock.advance(100)
        eventually(lambda: not tier(store.stats(), "disk").degraded)
        assert store.flush()
    with scene.open() as store:
        assert restore(store.space(identity()), TOKENS) == 64


def test_a_tag_that_was_dropped_and_said_of_a_block_on_its_way_keeps_it(scene: Scene) -> None:
    with scene.open() as store:
        space = store.space(identity())

        class Tagging(KeyedPages):
            """Says more of the block while it is gathered."""

            def gather(self, part: Part, blocks: Sequence[int], into: Sequence[Bytes]) -> None:
                super().gather(part, blocks, into)
                space.drop(tag="x")
                space.tag(TOKENS, ["x"])
                store.flush()

        space.save(TOKENS, Tagging(space, TOKENS))
        assert store.flush()
    with scene.open() as store:
        assert restore(store.space(identity()), TOKENS) == 64


def test_a_slot_that_has_another_block_by_now_keeps_that_ones_drop(
    scene: Scene, tmp_path: Path
) -> None:
    """An index older than the slab says that one block lies where another one was dropped."""
    scene = replace(scene, disk=1 << 20)
    with scene.open() as store:
        save(store.space(identity()), TOKENS)
        assert store.flush()
        shutil.copytree(scene.dir / "index", tmp_path / "index")
    others = [prompt(10 + name, 1) for name in range(24)]
    with scene.open() as store:
        space = store.space(identity())
        for tokens in others:  # until every place has another block
            save(space, tokens)
            store.flush()
    shutil.rmtree(scene.dir / "index")
    shutil.copytree(tmp_path / "index", scene.dir / "index")
    with scene.open() as store:
        space = store.space(identity())
        for tokens in others:
            space.drop(prefix=tokens)
        space.tag(TOKENS, ["x"])
        store.flush()
    with scene.open() as store:
        space = store.space(identity())
        assert [space.match(tokens).tokens for tokens in others] == [0] * len(others)


def test_what_was_said_while_it_was_written_is_written_too(scene: Scene) -> None:
    disk = FaultyDisk("headers.kvs")
    with scene.open(disk.open) as store:
        space = store.space(identity())
        save(space, TOKENS)
        assert store.flush()
        gate = disk.hang("write")
        space.tag(TOKENS, ["first"])
        gate.wait_for(1)
        space.tag(TOKENS, ["second"])
        disk.mend()
        eventually(lambda: not store.stats().dirty_blocks)
    with scene.open() as store:
        assert store.space(identity()).drop(tag="second").blocks == 1
