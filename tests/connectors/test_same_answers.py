"""What a model says does not depend on the store.

The measure is the engine itself: its own prefill in two chunks, cut where the store's part ends,
moves logits by rounding, and the store may move them by as much.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import pytest
import torch

from kvstrata.connectors.architecture import FAMILIES
from tests.connectors import tiny
from tests.connectors.conftest import Attach
from tests.connectors.tiny import (
    BLOCK,
    WINDOWED,
    Answer,
    answer,
    apart,
    computed,
)

if TYPE_CHECKING:
    from tests.connectors.tiny import Model

ROUNDING = 1e-6


def own_chunks(model: "Model", ids: torch.Tensor, reused: int) -> Answer:
    """The engine's own answer when it computes the first ``reused`` tokens by themselves."""
    return answer(model.generate, ids, prefill_chunk_size=reused)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_answers_and_logits_are_the_engines_own(family: str, attached: Attach) -> None:
    model = tiny.model(family)
    ids = tiny.prompt(77)
    cold = answer(model.generate, ids)
    chunked = own_chunks(model, ids, 72)
    connector = attached(model)
    first = answer(model.generate, ids)
    computed(model)
    second = answer(model.generate, ids)
    assert connector.counts.reused_tokens == 72
    assert computed(model) == 77 - 72 + 11
    assert torch.equal(first.sequences, cold.sequences)
    assert torch.equal(second.sequences, cold.sequences)
    assert apart(first, cold) == 0
    assert apart(second, cold) <= 2 * apart(chunked, cold) + ROUNDING


@pytest.mark.parametrize("family", ["llama", *WINDOWED])
def test_it_is_the_stored_kv_that_the_model_reads(family: str, attached: Attach) -> None:
    model = tiny.model(family)
    connector = attached(model)
    ids = tiny.prompt(77)
    cold = answer(model.generate, ids)
    restored = connector.restore(ids)
    for tensor in restored.cache.memory.tensors:
        tensor.mul_(-1)
    warm = answer(connector.engine, ids, past_key_values=restored.cache)
    assert apart(warm, cold) > 1e-3


@pytest.mark.parametrize("family", ["llama", *WINDOWED])
@pytest.mark.parametrize("shared", [7, 8, 16, 40, 76])
def test_a_prompt_reuses_what_it_shares_with_an_earlier_one(
    family: str, shared: int, attached: Attach
) -> None:
    model = tiny.model(family)
    other = torch.cat([tiny.prompt(77)[:, :shared], tiny.prompt(77 - shared, seed=1)], dim=1)
    cold = answer(model.generate, other)
    connector = attached(model)
    answer(model.generate, tiny.prompt(77))
    warm = answer(model.generate, other)
    assert connector.counts.reused_tokens == shared // BLOCK * BLOCK
    assert torch.equal(warm.sequences, cold.sequences)
    assert apart(warm, cold) < 1e-5


@pytest.mark.parametrize("family", ["llama", *WINDOWED])
def test_a_conversation_reuses_the_answers(family: str, attached: Attach) -> None:
    model = tiny.model(family)
    engine = model.generate
    connector = attached(model)
    ids, reused = tiny.prompt(40), []
    for turn in range(3):
        cold = answer(engine, ids)
        before = connector.counts.reused_tokens
        warm = answer(model.generate, ids)
        reused.append(connector.counts.reused_tokens - before)
        assert torch.equal(warm.sequences, cold.sequences)
        assert apart(warm, cold) < 1e-5
        ids = torch.cat([warm.sequences, tiny.prompt(10, seed=turn)], dim=1)
    # the last token of an answer never went through the model
    assert reused == [0, (40 + 11) // BLOCK * BLOCK, (62 + 11) // BLOCK * BLOCK]


@pytest.mark.parametrize("family", ["llama", *WINDOWED])
@pytest.mark.parametrize("tokens", [BLOCK, 2 * BLOCK, 8 * BLOCK])
def test_the_last_token_of_a_prompt_is_always_computed(
    family: str, tokens: int, attached: Attach
) -> None:
    model = tiny.model(family)
    connector = attached(model)
    ids = tiny.prompt(tokens)
    cold = answer(model.generate, ids)
    computed(model)
    warm = answer(model.generate, ids)
    assert connector.counts.reused_tokens == tokens - 1
    assert computed(model) == 1 + 11
    assert torch.equal(warm.sequences, cold.sequences)
    assert apart(warm, cold) < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_half_precision_moves_by_no_more_than_the_engines_own_rounding(
    family: str, dtype: torch.dtype, attached: Attach
) -> None:
    model = tiny.model(family)
    torch.nn.Module.to(model, dtype)
    ids = tiny.prompt(77)
    cold, chunked = answer(model.generate, ids), own_chunks(model, ids, 72)
    connector = attached(model)
    answer(model.generate, ids)
    warm = answer(model.generate, ids)
    assert connector.counts.reused_tokens == 72
    assert {group.dtype for group in connector.identity.layout.groups} == {str(dtype)[6:]}
    assert apart(warm, cold) <= 2 * apart(chunked, cold) + torch.finfo(dtype).eps


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_it_is_all_the_same_in_which_mode_torch_is(
    mode: Callable[[], AbstractContextManager[object]], attached: Attach
) -> None:
    model = tiny.model("gemma3_text")
    connector = attached(model)
    ids = tiny.prompt(77)
    with mode():
        cold = answer(model.generate, ids)
    warm = answer(model.generate, ids)
    with mode():
        again = answer(model.generate, ids)
    assert torch.equal(warm.sequences, cold.sequences)
    assert torch.equal(again.sequences, cold.sequences)
    assert connector.counts.reused_tokens == 2 * 72


@pytest.mark.parametrize("family", WINDOWED)
def test_a_window_is_restored_by_the_blocks_that_it_reaches(family: str, attached: Attach) -> None:
    model = tiny.model(family)
    connector = attached(model)
    ids = tiny.prompt(80)
    answer(model.generate, ids, tokens=1)
    before = connector.store.stats().counts["loaded"]
    answer(model.generate, torch.cat([ids, tiny.prompt(1)], dim=1), tokens=1)
    after = connector.store.stats().counts["loaded"]
    assert isinstance(before, list)
    assert isinstance(after, list)
    groups = connector.identity.layout.groups
    reach = {"window": -(-(tiny.WINDOW - 1) // BLOCK), "full": 80 // BLOCK}
    assert after[0] - before[0] == sum(reach[group.kind] for group in groups)


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_sampling_draws_the_same_numbers(family: str, attached: Attach) -> None:
    model = tiny.model(family)
    engine = model.generate
    connector = attached(model)
    ids = tiny.prompt(50)
    model.generate(ids, max_new_tokens=1)

    def sampled(generate: Callable[..., object], seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return answer(generate, ids, do_sample=True, temperature=1.5).sequences

    for seed in range(3):
        assert torch.equal(sampled(model.generate, seed), sampled(engine, seed))
    assert connector.counts.reused_tokens == 3 * 48


@pytest.mark.parametrize(
    "settings",
    [
        {"prefill_chunk_size": 5},
        {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
        {"guidance_scale": 1.5},
        {"suppress_tokens": list(range(100))},
        {"output_scores": True},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_whatever_chooses_the_tokens_is_none_of_the_stores_business(
    settings: Mapping[str, Any], attached: Attach
) -> None:
    model = tiny.model("gemma3_text")
    engine = model.generate
    connector = attached(model)
    ids = tiny.prompt(77)
    cold = answer(engine, ids, **settings)
    answer(model.generate, ids)
    warm = answer(model.generate, ids, **settings)
    assert torch.equal(warm.sequences, cold.sequences)
    assert connector.counts.reused_tokens == 72
    assert connector.counts.bypassed == {}
