"""Headers in host memory: written anew while they are read, wiped while their place is leased."""

import os
import threading
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from kvstrata.kvstore.frame import encode
from kvstrata.kvstore.host import HostTier
from kvstrata.kvstore.index import HOST
from kvstrata.kvstore.layout import Part
from kvstrata.kvstore.space import Space
from tests.store.kit import (
    FRAME_BYTES,
    MIB,
    ROUGH,
    Crowd,
    KeyedPages,
    Scene,
    count,
    expect_no_lease,
    identity,
    prompt,
    smooth,
)

TOKENS = prompt(1, 1)


@pytest.mark.usefixtures("restless")
def test_a_header_that_is_written_anew_while_it_is_read_is_no_damage(scene: Scene) -> None:
    with replace(scene, disk=0).open() as store, Crowd() as crowd:
        space = store.space(identity())
        scores = {"scores": [np.arange(100, dtype=np.uint8)]}
        space.save(TOKENS, KeyedPages(space, TOKENS), attachments=scores)
        store.flush()
        ended = threading.Event()
        crowd.start(lambda: _rewrite(space, ended))
        with space.hold(space.match(TOKENS)) as hit:
            try:
                assert all(hit.attachments(0) for _ in range(2000))
            finally:
                ended.set()
        assert count(store, "quarantined") == 0


def _rewrite(space: Space, ended: threading.Event) -> None:
    """What the mover does behind a save or a tag, again and again: there is no verb that does."""
    residency = space._residency
    host, index = residency.host, residency.index
    slot = index.place[HOST][index.find(space.match(TOKENS).keys[0] + bytes(Part(0, 0)))]
    header = host.parse(host.header(slot))
    both = [encode(header._replace(saved=now), host.superblock.seed) for now in (1.0, 2.0)]
    while not ended.is_set():
        for encoded in both:
            with residency.lock:
                host.write_header(slot, encoded)


def _save_better(space: Space) -> None:
    space.save(TOKENS, KeyedPages(space, TOKENS, fill=smooth))


def _drop(space: Space) -> None:
    space.drop(prefix=TOKENS)


@pytest.mark.parametrize("replace_it", [_save_better, _drop])
@pytest.mark.parametrize("codec", ["raw", "plane-huff"])
def test_a_hit_restores_the_rest_of_a_block_that_gave_up_its_place(
    scene: Scene, codec: str, replace_it: Callable[[Space], None]
) -> None:
    """An engine that loads some layers at a time meets a better copy or a drop in between."""
    with replace(scene, codec=codec).open() as store:
        space = store.space(identity())
        rough = KeyedPages(space, TOKENS, fidelity=ROUGH, fill=smooth)
        space.save(TOKENS, rough, fidelity=ROUGH)
    with replace(scene, codec=codec).open() as store:
        space = store.space(identity())
        pages = KeyedPages(space, TOKENS, fill=smooth)
        with space.hold(space.match(TOKENS)) as hit:
            assert hit.load(pages, layers=(0, 2)) == 64
            replace_it(space)
            assert hit.load(pages, layers=(2, 4)) == 64
            pages.check(64, hit.fidelity)
        assert count(store, "failed_loads") == count(store, "quarantined") == 0
        expect_no_lease(store)
        store.audit()


def test_damage_is_counted_and_told_once(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    with scene.open() as store:
        space = store.space(identity())
        scores = {"scores": [np.arange(100, dtype=np.uint8)]}
        space.save(TOKENS, KeyedPages(space, TOKENS), attachments=scores)
        assert store.flush()
        with space.hold(space.match(TOKENS)) as hit:
            at = os.pread(store.host_fd, 1 * MIB, 0).index(b"KVSTRATA")
            os.pwrite(store.host_fd, b"damage", at + 100)
            assert [hit.attachments(0) for _ in range(3)] == [{}, {}, {}]
        assert count(store, "quarantined") == 1
    assert caplog.text.count("a damaged block is forgotten") == 1


def test_a_place_given_back_is_found_by_none_but_those_who_leased_it() -> None:
    host = HostTier(2 * MIB)
    slot = host.slab.take(FRAME_BYTES)
    host.write_header(slot, b"KVSTRATA and more")
    host.slab.lease(slot)
    host.give(slot)
    assert not list(host.scan())
    assert host.leased_header(slot).startswith(b"KVSTRATA and more")
    host.slab.release(slot)
    host.slab.audit()
    host.close()
