"""Calls that end before their time: nothing stays leased, and nothing wrong is saved."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import torch
from transformers import LogitsProcessor

from kvstrata.connectors.transformers import TransformersConnector
from kvstrata.kvstore.store import Store
from tests.connectors import tiny
from tests.connectors.conftest import Attach
from tests.connectors.tiny import BLOCK, answer

if TYPE_CHECKING:
    from tests.connectors.tiny import Model

IDS = tiny.prompt(77)
FAMILIES = ("llama", "gemma3_text")


class AtStep(LogitsProcessor):
    """Does something when the third token is chosen, and changes no score."""

    def __init__(self, act: Callable[[], None]) -> None:
        self._act = act
        self._steps = 0

    def __call__(self, _ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """The scores as they are."""
        self._steps += 1
        if self._steps == 3:
            self._act()
        return scores


class Interrupted(BaseException):
    """As if somebody pressed a key."""


def interrupt() -> None:
    """Break a call off."""
    raise Interrupted


def break_off_in_layer(model: "Model", number: int) -> torch.utils.hooks.RemovableHandle:
    """Let the next forward pass end before a layer."""

    def refuse(*_: object) -> None:
        raise Interrupted

    handle: torch.utils.hooks.RemovableHandle = model.model.layers[
        number
    ].register_forward_pre_hook(refuse)
    return handle


def assert_nothing_is_leased(store: Store) -> None:
    """The books are right, and when the writing is done no reader is left in them."""
    assert store.flush()
    store.audit()
    assert not any(tier.leased for tier in store.stats().tiers)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_call_that_raises_leaves_the_store_as_it_was(family: str, attached: Attach) -> None:
    model = tiny.model(family)
    connector = attached(model)
    answer(model.generate, IDS[:, :40], tokens=1)
    blocks = connector.store.stats().blocks
    with pytest.raises(Interrupted):
        answer(model.generate, IDS, logits_processor=[AtStep(interrupt)])
    assert connector.store.stats().blocks == blocks
    assert_nothing_is_leased(connector.store)
    cold = answer(connector.engine, IDS)
    assert torch.equal(answer(model.generate, IDS).sequences, cold.sequences)
    assert connector.counts.reused_tokens == 2 * 40


def test_a_store_that_closes_while_the_model_runs_goes_unnoticed(attached: Attach) -> None:
    model = tiny.model()
    connector = attached(model)
    cold = answer(connector.engine, IDS)
    closing = [AtStep(connector.store.close)]
    warm = answer(model.generate, IDS, logits_processor=closing)
    assert torch.equal(warm.sequences, cold.sequences)
    assert connector.counts.saved_blocks == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_what_only_some_layers_computed_is_not_saved(family: str, attached: Attach) -> None:
    model = tiny.model(family)
    connector = attached(model)
    answer(model.generate, IDS[:, :17], tokens=1)
    restored = connector.restore(IDS)
    assert restored.columns == 16
    handle = break_off_in_layer(model, 2)
    with pytest.raises(Interrupted):
        answer(connector.engine, IDS, past_key_values=restored.cache)
    handle.remove()
    assert restored.save(IDS) == 16 // BLOCK
    assert stored_tokens(connector) == 16


@pytest.mark.parametrize("beams", [1, 3])
def test_what_was_never_computed_is_not_saved(beams: int, attached: Attach) -> None:
    model = tiny.model()
    model.generation_config.num_beams = beams
    connector = attached(model)
    assert connector.restore(IDS).save(IDS.repeat(beams, 1)) == 0
    assert stored_tokens(connector) == 0


def stored_tokens(connector: TransformersConnector) -> int:
    """How many tokens of the prompt are stored."""
    return connector.store.space(connector.identity).match(IDS[0].numpy()).tokens
