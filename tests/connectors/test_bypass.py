"""Calls that the store cannot serve go to the model as they are, and are counted by reason."""

import logging
import sys
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
import torch
from transformers import DynamicCache, GenerationConfig, StaticCache

from kvstrata.connectors.calls import Reason
from kvstrata.kvstore.errors import ArgumentError
from tests.connectors import tiny
from tests.connectors.conftest import Attach
from tests.connectors.tiny import said

if TYPE_CHECKING:
    from tests.connectors.tiny import Model

IDS = tiny.prompt(40, rows=2)
HOLE = torch.ones_like(IDS).index_fill(1, torch.tensor([5]), 0)
RIGHT = torch.ones_like(IDS).index_fill(1, torch.tensor([39]), 0)

Own = Callable[["Model"], dict[str, object]]

ARGUMENTS: dict[str, tuple[Reason, Own]] = {
    "inputs_embeds": (
        Reason.INPUT,
        lambda model: {"inputs_embeds": model.get_input_embeddings()(IDS)},
    ),
    "embeddings beside tokens": (
        Reason.ARGUMENT,
        lambda model: {"input_ids": IDS, "inputs_embeds": model.get_input_embeddings()(IDS)},
    ),
    "positions": (
        Reason.ARGUMENT,
        lambda _: {"input_ids": IDS, "position_ids": torch.arange(40)[None].repeat(2, 1)},
    ),
    "a mask with a hole": (Reason.MASK, lambda _: {"input_ids": IDS, "attention_mask": HOLE}),
    "padding on the right": (Reason.MASK, lambda _: {"input_ids": IDS, "attention_mask": RIGHT}),
    "a static cache": (
        Reason.CACHE,
        lambda _: {"input_ids": IDS, "cache_implementation": "static", "disable_compile": True},
    ),
    "a static cache of the caller's": (
        Reason.CACHE,
        lambda model: {
            "input_ids": IDS,
            "past_key_values": StaticCache(model.config, max_cache_len=60),
            "disable_compile": True,
        },
    ),
    "a cache of the caller's": (
        Reason.CACHE,
        lambda model: {"input_ids": IDS, "past_key_values": DynamicCache(config=model.config)},
    ),
    "no cache": (Reason.CACHE, lambda _: {"input_ids": IDS, "use_cache": False}),
    "no cache, by configuration": (
        Reason.CACHE,
        lambda _: {
            "input_ids": IDS,
            "generation_config": GenerationConfig(use_cache=False),  # type: ignore[no-untyped-call]
        },
    ),
    "hidden states": (
        Reason.INNER,
        lambda _: {
            "input_ids": IDS,
            "output_hidden_states": True,
            "return_dict_in_generate": True,
        },
    ),
    "prompt lookup": (
        Reason.MODE,
        lambda _: {"input_ids": IDS[:1], "prompt_lookup_num_tokens": 2},
    ),
    "assisted": (
        Reason.MODE,
        lambda _: {"input_ids": IDS[:1], "assistant_model": tiny.model(seed=1)},
    ),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_what_the_store_cannot_serve_goes_past_it(
    name: str, attached: Attach, caplog: pytest.LogCaptureFixture
) -> None:
    reason, own = ARGUMENTS[name]
    model = tiny.model()
    cold = said(model.generate, **own(model))
    connector = attached(model)
    with caplog.at_level(logging.DEBUG, "kvstrata"):
        warm = said(model.generate, **own(model))
    assert torch.equal(warm, cold)
    assert connector.counts.bypassed == {reason: 1}
    assert connector.store.stats().blocks == 0
    assert reason in caplog.text


def in_training(model: "Model") -> None:
    """Dropout is on."""
    model.train()


def hooked(model: "Model") -> None:
    """Somebody looks at, and may change, what a layer computes."""
    model.model.layers[1].register_forward_hook(lambda *_: None)


def wrapped(model: "Model") -> None:
    """Somebody computes a layer in another way."""
    model.model.layers[1].forward = model.model.layers[1].forward


def prompt_tuned(model: "Model") -> None:
    """Somebody prepares the inputs, as peft does to put virtual tokens before them."""
    model.prepare_inputs_for_generation = model.prepare_inputs_for_generation


def spread(model: "Model") -> None:
    """Layers lie on several devices."""
    vars(model)["hf_device_map"] = {"model.layers.0": 0, "model.layers.1": 1}


STATES = {
    Reason.TRAINING: in_training,
    Reason.HOOKS: hooked,
    Reason.PROMPT_TUNING: prompt_tuned,
    Reason.DEVICES: spread,
}


@pytest.mark.parametrize("reason", STATES)
def test_a_model_in_an_unknown_state_goes_past_the_store(reason: Reason, attached: Attach) -> None:
    model = tiny.model()
    connector = attached(model)
    STATES[reason](model)
    said(model.generate, IDS)
    assert connector.counts.bypassed == {reason: 1}


def test_hooks_of_transformers_own_do_no_harm(attached: Attach) -> None:
    model = tiny.model()
    connector = attached(model)
    said(model.generate, IDS, output_attentions=True)  # which leaves hooks behind
    said(model.generate, IDS)
    assert connector.counts.bypassed == {Reason.INNER: 1}


def test_a_layer_with_another_forward_goes_past_the_store(attached: Attach) -> None:
    model = tiny.model()
    connector = attached(model)
    wrapped(model)
    said(model.generate, IDS)
    assert connector.counts.bypassed == {Reason.HOOKS: 1}


def test_autocast_goes_past_the_store(attached: Attach) -> None:
    model = tiny.model()
    connector = attached(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        said(model.generate, IDS)
    assert connector.counts.bypassed == {Reason.AUTOCAST: 1}


def test_an_adapter_goes_past_the_store(attached: Attach, monkeypatch: pytest.MonkeyPatch) -> None:
    peft = ModuleType("peft.tuners.tuners_utils")
    vars(peft)["BaseTunerLayer"] = torch.nn.Linear  # what peft puts into a model, for this test
    monkeypatch.setitem(sys.modules, peft.__name__, peft)
    model = tiny.model()
    connector = attached(model)
    said(model.generate, IDS)
    assert connector.counts.bypassed == {Reason.ADAPTER: 1}


def test_a_closed_store_goes_unnoticed(attached: Attach) -> None:
    model = tiny.model()
    connector = attached(model)
    cold = said(connector.engine, IDS)
    connector.store.close()
    assert torch.equal(said(model.generate, IDS), cold)
    assert connector.counts.bypassed == {Reason.STORE: 1}


def test_padding_tokens_make_a_mask_where_none_is_given(attached: Attach) -> None:
    model = tiny.model()
    connector = attached(model)
    padded = torch.nn.functional.pad(tiny.prompt(30), (10, 0))
    cold = said(connector.engine, padded)
    assert torch.equal(said(model.generate, padded), cold)
    assert connector.counts.prompt_tokens == 30
    # where padding ends answers too, the engine takes it for text, and so does the store
    ends = {"pad_token_id": tiny.PAD, "eos_token_id": tiny.PAD}
    cold = said(connector.engine, padded, **ends)
    assert torch.equal(said(model.generate, padded, **ends), cold)
    assert connector.counts.prompt_tokens == 30 + 40


def test_what_restore_cannot_serve_is_an_error(attached: Attach) -> None:
    connector = attached(tiny.model())
    with pytest.raises(ArgumentError, match="left padding"):
        connector.restore(IDS, HOLE)


def test_positional_arguments_and_streamers_are_served(attached: Attach) -> None:
    model = tiny.model()
    connector = attached(model)
    config = GenerationConfig(max_new_tokens=3, do_sample=False)  # type: ignore[no-untyped-call]
    for _ in range(2):
        heard = Ear()
        spoken = model.generate(IDS[:1], config, streamer=heard)
        assert heard.tokens == spoken[0].tolist()
    assert connector.counts.bypassed == {}
    assert connector.counts.reused_tokens == 39


def test_a_cache_of_none_is_no_cache_of_the_callers(attached: Attach) -> None:
    model = tiny.model()
    connector = attached(model)
    cold = said(connector.engine, IDS)
    for _ in range(2):
        assert torch.equal(said(model.generate, IDS, past_key_values=None), cold)
    assert connector.counts.bypassed == {}
    assert connector.counts.reused_tokens == 2 * 39


def test_a_callers_cache_goes_on_where_it_was(attached: Attach) -> None:
    model = tiny.model()
    connector = attached(model)
    caches = [DynamicCache(config=model.config) for _ in range(2)]
    for cache in caches:
        said(connector.engine, IDS[:, :30], past_key_values=cache)
    cold = said(connector.engine, IDS, past_key_values=caches[0])
    assert torch.equal(said(model.generate, IDS, past_key_values=caches[1]), cold)
    assert connector.counts.bypassed == {Reason.CACHE: 1}
    assert connector.store.stats().blocks == 0


class Ear:
    """Hears what is streamed."""

    def __init__(self) -> None:
        self.tokens: list[int] = []

    def put(self, tokens: torch.Tensor) -> None:
        """The prompt at first, then token by token."""
        self.tokens += tokens.flatten().tolist()

    def end(self) -> None:
        """Nothing more comes."""
