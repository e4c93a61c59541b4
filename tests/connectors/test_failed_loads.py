"""A block that turns out bad: the answer stays the same, and nothing computed from it is saved."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from kvstrata.connectors.calls import Call
from kvstrata.connectors.connector import Loaded, SpaceConnector
from kvstrata.connectors.memory import Shelf
from kvstrata.connectors.restoration import Restoration
from kvstrata.connectors.tally import Tally
from kvstrata.connectors.transformers import TransformersConnector, attach
from kvstrata.kvstore.layout import Part
from kvstrata.kvstore.pages import ArrayPages, Pages
from kvstrata.kvstore.plan import Plan
from kvstrata.kvstore.space import Space
from tests.connectors import tiny
from tests.connectors.conftest import Attach, OpenStore
from tests.connectors.tiny import BLOCK, answer, apart

FAMILIES = ("llama", "mistral", "gemma3_text")
IDS = tiny.prompt(77)


class Failing(SpaceConnector):
    """Loads what it is asked for, spoils the memory behind some length, and says so."""

    def __init__(self, space: Space, tokens: int) -> None:
        super().__init__(space)
        self.tokens = tokens

    def load(self, plan: Plan, pages: Pages, *, at_most: int) -> Loaded:
        """As much as is left, with what was written beyond it still in memory."""
        layout = self.space.layout
        loaded = super().load(plan, pages, at_most=at_most)
        for group in range(len(layout.groups)):
            noise = np.full(layout.frame_bytes(group, BLOCK), 0x7F, np.uint8)  # NaN, in float32
            span = (0, len(layout.groups[group].layers))
            for block in range(self.tokens // BLOCK, loaded.tokens // BLOCK):
                pages.scatter(Part(group, 0), [block], [noise], span)
        tokens = super().load(plan, pages, at_most=self.tokens).tokens if self.tokens else 0
        return loaded._replace(tokens=tokens, is_short=True)


def restored_by(failing: Failing, model: PreTrainedModel, tally: Tally) -> Restoration:
    """What ``attach`` would hand to the model, through another connector."""
    call = Call(IDS, model.device, None, copies=1, is_beam=False, room=20, ends=())
    return Restoration(failing, call, shelf=Shelf(), tally=tally, is_current=lambda: True)


def stored_kv(connector: TransformersConnector, tokens: torch.Tensor) -> list[torch.Tensor]:
    """Everything that is stored of a sequence, a tensor for each group."""
    space = connector.store.space(connector.identity)
    layout, blocks = space.layout, len(tokens) // BLOCK
    arrays = {
        Part(group, 0): np.zeros((blocks, layout.frame_bytes(group, BLOCK)), np.uint8)
        for group in range(len(layout.groups))
    }
    pages = ArrayPages(layout, arrays)
    plan = space.match(tokens.numpy())
    assert plan.tokens == blocks * BLOCK
    for length in plan.lengths:  # of a window group each has other blocks
        with space.hold(plan, at_most=length) as hit:
            assert hit.load(pages) == length
    return [torch.from_numpy(array).view(torch.float32) for array in arrays.values()]


def flip_bits(slab: Path) -> None:
    """Damage the later half of the blocks that are stored, by one bit each."""
    mapped = np.memmap(slab, np.uint8, "r+")
    pages = mapped.reshape(-1, 16 << 10)
    used = np.flatnonzero(pages.any(axis=1))
    pages[used[len(used) // 2 :], 1000] ^= 1
    mapped.flush()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("left", [0, 8, 40])
def test_nothing_of_a_failed_load_is_used_or_saved(
    family: str, left: int, attached: Attach
) -> None:
    model = tiny.model(family)
    connector = attached(model)
    cold = answer(connector.engine, IDS)
    answer(model.generate, IDS[:, :73], tokens=1)
    space, tally = connector.store.space(connector.identity), Tally()
    restored = restored_by(Failing(space, left), model, tally)
    assert restored.columns == left
    warm = answer(connector.engine, IDS, past_key_values=restored.cache)
    assert apart(warm, cold) < 1e-5
    restored.save(warm.sequences)
    assert tally.counts.short_loads == 1
    good = [kv.clone() for kv in stored_kv(connector, warm.sequences[0, :-1])]
    connector.store.space(connector.identity).drop(prefix=IDS[0, :BLOCK].numpy())
    answer(model.generate, IDS)
    for mine, fresh in zip(good, stored_kv(connector, warm.sequences[0, :-1]), strict=True):
        assert torch.isfinite(mine).all()
        assert torch.allclose(mine, fresh, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_flipped_bits_on_disk_cost_a_prefill_and_no_more(
    family: str, open_store: OpenStore
) -> None:
    model = tiny.model(family)
    with open_store() as store, attach(model, store, block_tokens=BLOCK) as connector:
        assert connector.weights.wait(60)
        cold = answer(connector.engine, IDS)
        answer(model.generate, IDS)
        assert store.flush()
        slab = store.settings.dir / "pages.kvs"
    flip_bits(slab)
    with open_store() as store, attach(model, store, block_tokens=BLOCK) as connector:
        assert connector.weights.wait(60)
        warm = answer(model.generate, IDS)
        assert connector.counts.reused_tokens < 72
        assert connector.counts.short_loads == 1
        assert apart(warm, cold) < 1e-5
        again = answer(model.generate, IDS)
        assert connector.counts.reused_tokens >= 72
        assert apart(again, cold) < 1e-5
