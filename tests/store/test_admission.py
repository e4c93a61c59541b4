"""What a save finds room for, and whom it may take room from."""

import errno
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest

from kvstrata.kvstore.errors import ArgumentError
from kvstrata.kvstore.identity import private_weights
from kvstrata.kvstore.layout import Group, Layout, Part
from kvstrata.kvstore.store import Store
from tests.store.faulty import FaultyDisk
from tests.store.kit import (
    FRAME_BYTES,
    FULL,
    ROUGH,
    KeyedPages,
    Scene,
    count,
    eventually,
    identity,
    prompt,
    restore,
    save,
    smooth,
    tier,
)

HALF = Group((0, 1, 2, 3), heads=2, head_dim=64, dtype="bfloat16")
TWO_SHARDS = Layout(
    (Group((0,), heads=2, head_dim=32, dtype="float32"),), block_tokens=32, shards=2
)
EIGHT_SHARDS = Layout(
    (Group((0,), heads=8, head_dim=32, dtype="float32"),), block_tokens=16, shards=8
)


def _slots(store: Store) -> int:
    return tier(store.stats(), "host").capacity_bytes // FRAME_BYTES


def test_a_chain_that_found_no_room_to_grow_makes_room_for_others(scene: Scene) -> None:
    with replace(scene, disk=0).open() as store:
        space = store.space(identity())
        room = _slots(store)
        assert save(space, prompt(1, room)) == room
        assert save(space, prompt(1, room + 1)) == room
        assert [save(space, prompt(5 + name, 1)) for name in range(5)] == [1] * 5
        store.audit()


def test_memory_full_of_one_unwritten_chain_gives_its_tail(scene: Scene) -> None:
    disk = FaultyDisk("pages.kvs")
    with scene.open(disk.open) as store:
        space = store.space(identity())
        room = _slots(store)
        gate = disk.hang("write")
        save(space, prompt(9, 1))
        gate.wait_for(1)
        assert save(space, prompt(1, room - 1)) == room - 1
        assert save(space, prompt(2, 10)) == 10
        assert count(store, "dropped_dirty") == 10
        disk.mend()
        assert store.flush()
        store.audit()


def test_parts_of_unequal_length_grow_together_or_not_at_all(scene: Scene) -> None:
    """Room for one part may be made at the end of the other; what hangs there is no orphan."""
    with replace(scene, disk=0, memory=96 << 20).open() as store:
        space = store.space(identity(TWO_SHARDS))
        tokens = prompt(1, 300, layout=TWO_SHARDS)
        longer = [*tokens[: 300 * 32], *range(32 * 20 + 3)]
        assert save(space, tokens) == 300
        books = store._residency
        first = books.index.find(space.match(tokens).keys[0] + bytes(Part(0, 0)))
        books.quarantine(first, books.index.generation[first], "test")
        other = store.space(identity(TWO_SHARDS, model=2, tenant="other"))
        held = 0
        while _slots(store) - store.stats().blocks > 250:
            tokens_held = prompt(1000 + held, 1, layout=TWO_SHARDS)
            save(other, tokens_held)
            other.pin(tokens_held, 1e6)
            held += 1
        stored = save(space, longer)
        assert space.match(longer).tokens == 32 * stored
        store.audit()
        store.drop_tenant("other")
        assert save(space, longer) == 320
        assert restore(space, longer) == 320 * 32
        assert space.drop(prefix=longer[:33]).blocks == 640
        assert store.stats().blocks == 0
        store.audit()


def test_more_frames_than_there_are_spare_rows_find_no_room_and_say_so(scene: Scene) -> None:
    with replace(scene, disk=0).open() as store:
        space = store.space(identity(EIGHT_SHARDS))
        save(space, prompt(1, _slots(store) // 8, layout=EIGHT_SHARDS))
        assert save(space, prompt(2, 256, layout=EIGHT_SHARDS)) < 256
        store.audit()
        assert save(space, prompt(3, 1, layout=EIGHT_SHARDS)) == 1


@pytest.mark.parametrize("attached", [{"": 1}, {str(n): 1 for n in range(96)}], ids=["", "many"])
def test_attachments_that_are_refused_leave_nothing_behind(
    scene: Scene, attached: dict[str, int]
) -> None:
    arrays = {name: [np.zeros(8, np.uint8)] * 2 for name in attached}
    with scene.open() as store:
        space, tokens = store.space(identity()), prompt(1, 2)
        with pytest.raises(ArgumentError):
            space.save(tokens, KeyedPages(space, tokens), attachments=arrays)
        assert store.stats().blocks == 0
        assert save(space, tokens) == 2
        assert restore(space, tokens) == 128
        assert store.flush()


def test_a_better_copy_does_not_shorten_a_life(scene: Scene) -> None:
    tokens = prompt(1, 2)
    with scene.open() as store:
        space = store.space(identity())
        save(space, tokens, fidelity=ROUGH)
        save(space, tokens, ttl_s=10)
        scene.clock.advance(11)
        assert restore(space, tokens) == 128
    with scene.open() as store:
        assert restore(store.space(identity()), tokens) == 128


def test_a_private_block_never_reaches_the_disk_whatever_is_said_of_it(scene: Scene) -> None:
    with scene.open() as store:
        space, tokens = store.space(replace(identity(), weights=private_weights())), prompt(1, 2)
        save(space, tokens, ttl_s=100)
        save(space, tokens, ttl_s=200)
        space.tag(tokens, ["x"])
        assert store.flush()
        assert tier(store.stats(), "disk").blocks == 0


def test_an_unwritten_copy_that_left_is_not_taken_for_a_victim_again(scene: Scene) -> None:
    """It was passed over as unwritten, fell back to the disk, and has no place any more."""
    disk = FaultyDisk("pages.kvs")
    with replace(scene, disk=64 << 20).open(disk.open) as store:
        space = store.space(identity())
        better = prompt(1, 1)
        save(space, better, fidelity=ROUGH)
        assert store.flush()
        gate = disk.hang("write")
        save(space, prompt(9, 1))
        gate.wait_for(1)
        disk.let_pass()
        save(space, better)
        for name in range(_slots(store) - 1):
            assert save(space, prompt(20 + name, 1)) == 1
        save(space, better)
        disk.fail("read", "write", error=errno.EIO)
        gate.open()
        eventually(lambda: bool(tier(store.stats(), "disk").degraded))
        for name in range(2 * _slots(store)):
            tokens = prompt(3000 + 10 * name, 3)
            assert save(space, tokens) == 3
            assert restore(space, tokens) == 192
            store.audit()
        disk.mend()


def test_a_block_with_as_many_attachments_as_fit_is_written_under_every_codec(scene: Scene) -> None:
    """An encoder may need more segments than the header has room for."""
    with replace(scene, codec="plane-huff", disk=64 << 20).open() as store:
        space = store.space(identity(replace(FULL, groups=(HALF,))))
        for number in range(30, 50):
            tokens = prompt(number, 1)
            arrays = {str(n): [np.zeros(8, np.uint8)] for n in range(number)}
            with suppress(ArgumentError):
                space.save(tokens, KeyedPages(space, tokens, fill=smooth), attachments=arrays)
        assert store.stats().blocks > 0
        assert store.flush()
