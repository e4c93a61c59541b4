"""New slabs are written once in the background; what is borrowed for that always comes back."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from kvstrata.kvstore import formatting
from kvstrata.kvstore.errors import TierError
from kvstrata.kvstore.space import Space
from tests.store.faulty import FaultyDisk, Operation
from tests.store.kit import FRAME_BYTES, Bytes, Scene, eventually, identity, tier

SLOT = 4096


class _BadSpot(FaultyDisk):
    """Header slots 40 to 60 cannot be written."""

    def before(
        self, operation: Operation, path: Path, offset: int = 0, data: Sequence[Bytes] = ()
    ) -> None:
        """Refuse them."""
        is_bad = path.name == "headers.kvs" and 40 * SLOT <= offset < 60 * SLOT
        if operation == "write" and is_bad:
            raise TierError(f"{path} at {offset}: a bad spot")
        super().before(operation, path, offset, data)


def test_places_that_could_not_be_formatted_are_given_back(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formatting, "_FIRST_SLOTS", 16)
    monkeypatch.setattr(formatting, "_SLOTS", 16)
    with scene.open(_BadSpot().open) as store:
        space = store.space(identity())
        eventually(lambda: tier(store.stats(), "disk").degraded != "")
        eventually(lambda: _free_places(space) == scene.disk // (FRAME_BYTES + SLOT))
        store.audit()


def _free_places(space: Space) -> int:
    """How many frames the disk would take now."""
    residency = space._residency
    slab = residency.disk.stripes[0].slab
    with residency.lock:
        places = slab.take_some(1, slab.slots)
        for place in places:
            slab.give(place)
    return len(places)
