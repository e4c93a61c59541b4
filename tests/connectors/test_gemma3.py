"""Gemma 3 with its vision tower: text is served, as its processor hands it in; images are not."""

from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import GenerationConfig

from kvstrata.connectors.calls import Reason
from tests.connectors import tiny
from tests.connectors.conftest import Attach
from tests.connectors.tiny import answer, apart, computed, said

if TYPE_CHECKING:
    from tests.connectors.tiny import Model

IDS = tiny.prompt(77)
IMAGE_TOKENS = 4


@pytest.fixture
def model() -> "Model":
    """Sliding and full layers, and eyes that see something."""
    made = tiny.model("gemma3")
    torch.nn.init.normal_(made.model.multi_modal_projector.mm_input_projection_weight)
    return made


def seen(model: "Model", *, seed: int) -> dict[str, Any]:
    """A prompt with an image in it, as the processor makes it."""
    ids = IDS.clone()
    ids[:, 10 : 10 + IMAGE_TOKENS] = model.config.image_token_id
    generator = torch.Generator().manual_seed(seed)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "token_type_ids": (ids == model.config.image_token_id).long(),
        "pixel_values": torch.randn(1, 3, 28, 28, generator=generator),
    }


def test_text_is_served_as_the_processor_hands_it_in(model: "Model", attached: Attach) -> None:
    text: dict[str, Any] = {"token_type_ids": torch.zeros_like(IDS)}
    cold = answer(model.generate, IDS, **text)
    chunked = answer(model.generate, IDS, prefill_chunk_size=72, **text)
    connector = attached(model)
    answer(model.generate, IDS, **text)
    computed(model)
    warm = answer(model.generate, IDS, **text)
    assert connector.counts.bypassed == {}
    assert computed(model) == 77 - 72 + 11
    assert torch.equal(warm.sequences, cold.sequences)
    assert apart(warm, cold) <= 2 * apart(chunked, cold) + 1e-6


def test_a_padded_batch_of_texts_is_served(model: "Model", attached: Attach) -> None:
    ids = torch.cat([IDS, tiny.prompt(77, seed=1)])
    ids[1, :30] = tiny.PAD
    mask = (ids != tiny.PAD).long()
    inputs: dict[str, Any] = {"attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    cold = answer(model.generate, ids, **inputs)
    connector = attached(model)
    answer(model.generate, ids, **inputs)
    warm = answer(model.generate, ids, **inputs)
    # the second row has 40 of its 47 tokens stored, the first reuses up to the same column
    assert connector.counts.reused_tokens == (30 + 40) + 40
    assert torch.equal(warm.sequences, cold.sequences)
    assert apart(warm, cold) < 1e-5


def test_images_go_past_the_store(model: "Model", attached: Attach) -> None:
    pictures = [seen(model, seed=seed) for seed in range(2)]
    cold = [answer(model.generate, **picture) for picture in pictures]
    assert apart(*cold) > 1e-4  # the tokens alone do not say what the answer is
    connector = attached(model)
    for picture, expected in zip(pictures, cold, strict=True):
        assert apart(answer(model.generate, **picture), expected) == 0
    assert connector.counts.bypassed == {Reason.MEDIA: 2}
    assert connector.store.stats().blocks == 0


def test_tokens_that_are_said_to_be_an_image_go_past_the_store(
    model: "Model", attached: Attach
) -> None:
    connector = attached(model)
    said(model.generate, IDS, token_type_ids=torch.ones_like(IDS))
    assert connector.counts.bypassed == {Reason.ARGUMENT: 1}


@pytest.mark.parametrize("family", ["gemma2", "gemma3_text", "gemma3"])
def test_the_cache_that_old_gemma_models_ask_for_is_none(family: str, attached: Attach) -> None:
    model = tiny.model(family)
    hybrid = GenerationConfig(cache_implementation="hybrid")  # type: ignore[no-untyped-call]
    model.generation_config.cache_implementation = "hybrid"
    connector = attached(model)
    answer(model.generate, IDS)
    answer(model.generate, IDS)
    answer(model.generate, IDS, generation_config=hybrid)
    assert connector.counts.bypassed == {}
    assert connector.counts.reused_tokens == 2 * 72
