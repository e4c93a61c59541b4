"""Engines go on while much is dropped or expires; what is refused takes nothing along."""

import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from kvstrata.kvstore.errors import ArgumentError
from kvstrata.kvstore.store import Store
from tests.store.kit import (
    MIB,
    Crowd,
    Scene,
    expect_no_lease,
    identity,
    prompt,
    restore,
    save,
    tier,
)


def _seen_while(store: Store, work: Callable[[], int]) -> set[int]:
    """How many blocks an engine saw while much was being removed."""
    seen, is_over = set[int](), threading.Event()

    def watch() -> None:
        while not is_over.is_set():
            seen.add(store.stats().blocks)

    with Crowd() as crowd:
        crowd.start(watch)
        try:
            assert work() == 400
        finally:
            is_over.set()
    return seen


@pytest.mark.parametrize("how", ["tenant", "tag", "expiry"])
def test_an_engine_gets_in_between_while_much_goes(scene: Scene, how: str) -> None:
    with replace(scene, memory=64 * MIB, disk=0).open() as store:
        space = store.space(identity(tenant="t"))
        verbs: dict[str, Callable[[], int]] = {
            "tenant": lambda: store.drop_tenant("t").blocks,
            "tag": lambda: space.drop(tag="x").blocks,
            "expiry": store.expire,
        }
        seen = set[int]()
        for _ in range(50):  # whoever watches may not be awake in time
            assert save(space, prompt(1, 400), tags=["x"], ttl_s=10) == 400
            scene.clock.advance(11)
            seen |= _seen_while(store, verbs[how])
            assert store.stats().blocks == 0
            if seen - {0, 400}:
                break
        assert seen - {0, 400}
        store.audit()


def test_a_drop_that_is_refused_takes_nothing_along(scene: Scene) -> None:
    tokens = prompt(1, 1)
    with scene.open() as store:
        space = store.space(identity())
        save(space, tokens)
        assert store.flush()
        with pytest.raises(ArgumentError, match="32 bytes"):
            space.drop(blocks=[space.match(tokens).keys[0], b"x" * 31])
        expect_no_lease(store)
        assert tier(store.stats(), "disk").leased == 0
        assert restore(space, tokens) == 64
