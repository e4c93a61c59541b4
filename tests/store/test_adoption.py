"""A process that is handed the memory of a dead one finds its blocks, and only whole ones."""

import os

import pytest

from kvstrata.kvstore.errors import KVStrataError
from kvstrata.kvstore.identity import private_weights
from kvstrata.kvstore.layout import Layout, Part
from kvstrata.kvstore.store import Store
from tests.store.kit import (
    FRAME_BYTES,
    LAYOUTS,
    ROUGH,
    Scene,
    content,
    count,
    identity,
    prompt,
    restore,
    restored_from_disk,
    save,
    tier,
)


def _adopt(scene: Scene, fd: int) -> Store:
    """A store over another one's memory; what ``Scene.open`` does, with a descriptor."""
    with scene.open() as store:
        settings = store.settings
    return Store(settings, clock=scene.clock, host_fd=fd)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_the_memory_of_a_dead_process_serves_its_blocks(scene: Scene, layout: Layout) -> None:
    tokens = prompt(1, 5, layout=layout)
    with scene.open() as store:
        save(store.space(identity(layout)), tokens)
        assert store.flush()
        fd = os.dup(store.host_fd)
    with _adopt(scene, fd) as store:
        assert restored_from_disk(store.space(identity(layout)), tokens) == 0
        store.audit()
        assert save(store.space(identity(layout)), prompt(2, 3, layout=layout)) == 3
        assert restore(store.space(identity(layout)), prompt(2, 3, layout=layout)) > 0
        store.audit()


def test_what_is_damaged_in_adopted_memory_is_taken_from_disk(scene: Scene) -> None:
    """One header and one payload are changed; neither is believed."""
    tokens = prompt(1, 4)
    with scene.open() as store:
        space = store.space(identity())
        save(space, tokens)
        assert store.flush()
        keys = space.match(tokens).keys
        fd = os.dup(store.host_fd)
    memory = os.pread(fd, 8 << 20, 0)
    _flip(fd, memory, memory.index(b"KVSTRATA" + memory[memory.index(keys[2]) - 16 :][:16]))
    _flip(fd, memory, memory.index(content(keys[3], Part(0, 0), FRAME_BYTES)[:64].tobytes()) + 5000)
    with _adopt(scene, fd) as store:
        assert restored_from_disk(store.space(identity()), tokens) == 2
        store.audit()


def _flip(fd: int, memory: bytes, at: int) -> None:
    os.pwrite(fd, bytes([memory[at] ^ 1]), at)


def test_what_was_dropped_is_not_found_in_adopted_memory(scene: Scene) -> None:
    with scene.open() as store:
        space = store.space(identity())
        save(space, prompt(1, 3))
        save(space, prompt(2, 3))
        assert store.flush()
        space.drop(prefix=prompt(1, 1)[:64])
        fd = os.dup(store.host_fd)
    with _adopt(scene, fd) as store:
        assert restore(store.space(identity()), prompt(1, 3)) == 0
        assert restore(store.space(identity()), prompt(2, 3)) == 192


def test_what_is_private_is_not_found_in_adopted_memory(scene: Scene) -> None:
    with scene.open() as store:
        save(store.space(identity(weights=private_weights())), prompt(1, 3))
        save(store.space(identity()), prompt(2, 3))
        assert store.flush()
        fd = os.dup(store.host_fd)
    with _adopt(scene, fd) as store:
        assert store.stats().blocks == 3
        assert tier(store.stats(), "host").blocks == 3


def test_an_older_copy_in_adopted_memory_does_not_hide_the_newer_one_on_disk(scene: Scene) -> None:
    tokens = prompt(1, 3)
    with scene.open() as store:
        save(store.space(identity()), tokens, fidelity=ROUGH)
        assert store.flush()
        fd = os.dup(store.host_fd)
    with scene.open() as store:
        save(store.space(identity()), tokens)
        assert store.flush()
    with _adopt(scene, fd) as store:
        space = store.space(identity())
        assert space.match(tokens).fidelity == 255
        assert restored_from_disk(space, tokens) == 3
        assert count(store, "quarantined") == 0
        store.audit()


def test_a_descriptor_that_holds_no_slab_is_refused(scene: Scene) -> None:
    fd = os.memfd_create("none")
    os.ftruncate(fd, 1 << 20)
    with pytest.raises(KVStrataError):
        _adopt(scene, fd)
    with scene.open() as store:  # and the directory is free
        assert save(store.space(identity()), prompt(1, 1)) == 1
