"""Blocks that are read or written together: what befalls one of them is nothing to the others."""

import errno
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kvstrata.kvstore.errors import TierError
from kvstrata.kvstore.files import Bytes
from kvstrata.kvstore.hit import Hit
from kvstrata.kvstore.layout import Part
from kvstrata.kvstore.space import Space
from kvstrata.kvstore.store import Store
from tests.store.faulty import FaultyDisk
from tests.store.kit import (
    KeyedPages,
    Scene,
    content,
    count,
    eventually,
    expect_no_lease,
    identity,
    prompt,
    restore,
    save,
    tier,
)

_FIRST, _OTHERS = 100, range(8)
_KEY_AT = 24  # of a header


@pytest.fixture
def stored(scene: Scene) -> Scene:
    """A store on whose disk lie nine prompts of one block, and which has a single reader."""
    with scene.open() as store:
        for name in (_FIRST, *_OTHERS):
            save(store.space(identity()), prompt(name, 1))
            assert store.flush()
    return replace(scene, readers=1)


class _Batch:
    """Reads that wait behind one that hangs, so that the reader takes them together."""

    def __init__(self, space: Space, disk: FaultyDisk, stack: ExitStack) -> None:
        gate = disk.hang("read")
        first = stack.enter_context(space.hold(space.match(prompt(_FIRST, 1))))
        gate.wait_for(1)
        disk.let_pass()
        self._space = space
        self._hits: dict[int, Hit] = {
            name: stack.enter_context(space.hold(space.match(prompt(name, 1)))) for name in _OTHERS
        }
        self._first, self._gate = first, gate

    def restored(self) -> list[int]:
        """Let go on what hangs, load all, compare every byte; the tokens of each."""
        self._gate.open()
        pages = KeyedPages(self._space, prompt(_FIRST, 1))
        assert self._first.load(pages) == 64
        return [self._load(name, hit) for name, hit in self._hits.items()]

    def _load(self, name: int, hit: Hit) -> int:
        pages = KeyedPages(self._space, prompt(name, 1))
        restored = hit.load(pages)
        pages.check(restored)
        return restored


def _found(space: Space, name: int, into: Sequence[Bytes]) -> list[Bytes]:
    """Where a prompt's block, or its header, begins in what was read; nowhere or in one place."""
    key = space.match(prompt(name, 1)).keys[0]
    signs = (0, content(key, Part(0, 0), 64).tobytes()), (_KEY_AT, key)
    sectors = [piece[at : at + 4096] for piece in into for at in range(0, piece.nbytes, 4096)]
    return [s for s in sectors if any(s[at:].tobytes().startswith(sign) for at, sign in signs)]


@pytest.mark.parametrize("only", ["pages.kvs", "headers.kvs"])
def test_one_damaged_block_does_not_hurt_those_that_are_read_with_it(
    stored: Scene, only: str
) -> None:
    disk = FaultyDisk("pages.kvs")
    with stored.open(disk.open) as store, ExitStack() as stack:
        space = store.space(identity())
        batch = _Batch(space, disk, stack)

        def flip(_path: Path, _offset: int, into: Sequence[Bytes]) -> None:
            for sector in _found(space, 3, into):
                sector[40] ^= np.uint8(4)

        disk.only = only
        disk.damage(flip)
        assert batch.restored() == [64, 64, 64, 0, 64, 64, 64, 64]
        assert count(store, "quarantined") == 1
        stack.close()
        expect_no_lease(store)
        store.audit()


@pytest.mark.parametrize("only", ["pages.kvs", "headers.kvs"])
def test_a_bad_sector_costs_one_block_of_those_that_are_read_together(
    stored: Scene, only: str
) -> None:
    disk = FaultyDisk("pages.kvs")
    with stored.open(disk.open) as store, ExitStack() as stack:
        space = store.space(identity())
        batch = _Batch(space, disk, stack)

        def fail(path: Path, _offset: int, into: Sequence[Bytes]) -> None:
            if _found(space, 3, into):
                raise TierError(f"{path}: {os.strerror(errno.EIO)}")

        disk.only = only
        disk.damage(fail)
        assert batch.restored() == [64, 64, 64, 0, 64, 64, 64, 64]
        assert only in tier(store.stats(), "disk").degraded
        assert count(store, "quarantined") == 0
        stack.close()
        expect_no_lease(store)
        store.audit()


def test_a_batch_that_hangs_is_a_miss_for_each_of_its_blocks_and_lands_later(
    stored: Scene,
) -> None:
    disk = FaultyDisk("pages.kvs")
    with replace(stored, deadline=0.2).open(disk.open) as store:
        space = store.space(identity())
        gate = disk.hang("read")
        assert [restore(space, prompt(name, 1)) for name in (_FIRST, 0, 1)] == [0, 0, 0]
        gate.wait_for(1)
        assert tier(store.stats(), "host").leased == 3
        disk.mend()
        expect_no_lease(store)
        assert tier(store.stats(), "host").blocks == 3
        assert [restore(space, prompt(name, 1)) for name in (_FIRST, 0, 1)] == [64] * 3
        store.audit()


def test_where_a_payload_cannot_be_written_no_header_is(scene: Scene) -> None:
    disk = FaultyDisk("pages.kvs")
    with scene.open(disk.open) as store:
        space = store.space(identity())
        disk.fail("write", error=errno.EIO)
        before = disk.nbytes["write", "headers.kvs"]
        save(space, prompt(1, 6))
        assert not store.flush()
        assert disk.nbytes["write", "headers.kvs"] == before


def test_a_stripe_whose_writes_hang_leaves_the_other_to_the_rest(scene: Scene) -> None:
    scene = replace(scene, stripes=(scene.dir / "a", scene.dir / "b"))
    disk = FaultyDisk("pages.kvs")
    with scene.open(disk.open) as store:
        space = store.space(identity())
        gate = disk.hang("write", directory=scene.stripes[0])
        save(space, prompt(0, 1))
        gate.wait_for(1)
        for name in range(1, 12):
            save(space, prompt(name, 1))
            _expect_written(store, name - 2)  # one hangs, one waits behind it
        assert not store.flush(timeout_s=0.05)
        disk.mend()
        assert store.flush()
        assert _written(store) == 12
        store.audit()


def _expect_written(store: Store, blocks: int) -> None:
    eventually(lambda: _written(store) >= blocks)


def _written(store: Store) -> int:
    return tier(store.stats(), "disk").blocks
