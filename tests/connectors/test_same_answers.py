"""What a model says does not depend on the store.

The measure is the engine itself: its own prefill in two chunks, cut where the store's part ends,
moves logits by rounding, and the store may move them by as much.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers.utils.generic import ModelOutput

from tests.connectors import tiny
from tests.connectors.conftest import Attach
from tests.connectors.tiny import (
    BLOCK,
    TEXT_FAMILIES,
    WINDOWED,
    Answer,
    answer,
    apart,
    computed,
    said,
)

if TYPE_CHECKING:
    from tests.connectors.tiny import Model

ROUNDING = 1e-6


def own_chunks(model: "Model", ids: torch.Tensor, reused: int) -> Answer:
    """The engine's own answer when it computes the first ``reused`` tokens by themselves."""
    return answer(model.generate, ids, prefill_chunk_size=reused)


@pytest.mark.parametrize("family", TEXT_FAMILIES)
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


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
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
        ids = torch.cat([warm.sequences, tiny.prompt(10, seed=turn)], dim=1)
    # the last token of an answer never went through the model
    assert reused == [0, (40 + 11) // BLOCK * BLOCK, (62 + 11) // BLOCK * BLOCK]


def test_the_last_token_of_a_prompt_is_always_computed(attached: Attach) -> None:
    model = tiny.model()
    connector = attached(model)
    ids = tiny.prompt(8 * BLOCK)
    cold = answer(model.generate, ids)
    computed(model)
    warm = answer(model.generate, ids)
    assert connector.counts.reused_tokens == 8 * BLOCK - 1
    assert computed(model) == 1 + 11
    assert torch.equal(warm.sequences, cold.sequences)


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


def test_several_answers_of_one_prompt_are_all_saved(attached: Attach) -> None:
    model = tiny.model()
    connector = attached(model)
    ids = tiny.prompt(40)
    torch.manual_seed(1)
    several = answer(model.generate, ids, do_sample=True, num_return_sequences=3, tokens=16)
    assert len({tuple(row) for row in several.sequences.tolist()}) == 3
    for row in several.sequences:
        assert connector.restore(row[None]).reused_tokens == (40 + 15) // BLOCK * BLOCK


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_beam_search_saves_the_prompt_only(family: str, attached: Attach) -> None:
    model = tiny.model(family)
    engine = model.generate
    connector = attached(model)
    ids = tiny.prompt(50, rows=2)
    beams = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 20}
    cold = said(engine, ids, **beams)
    assert torch.equal(said(model.generate, ids, **beams), cold)
    assert connector.store.stats().blocks == 2 * 6 * len(connector.identity.layout.groups)
    computed(model)
    assert torch.equal(said(model.generate, ids, **beams), cold)
    assert connector.counts.reused_tokens == 2 * 48
    assert computed(model) <= 2 * 3 * (2 + 20)


def test_an_answer_is_saved_up_to_the_token_that_ended_it(attached: Attach) -> None:
    model = tiny.model()
    engine = model.generate
    connector = attached(model)
    ids = tiny.prompt(40, rows=2)
    one, other = answer(engine, ids, tokens=30).sequences
    ends = next(int(t) for t in one[45:] if t not in other[40:] and t not in one[40:45])
    mask = torch.ones_like(ids)
    warm = said(model.generate, ids, attention_mask=mask, max_new_tokens=30, eos_token_id=ends)
    assert torch.equal(warm[1], other)
    length = 1 + int((warm[0] == ends).nonzero()[0])
    assert (warm[0, length:] == tiny.PAD).all()
    again = connector.restore(warm[:1, :-1], torch.ones_like(warm[:1, :-1]))
    assert again.reused_tokens == length // BLOCK * BLOCK


def test_a_returned_cache_stays_the_callers(attached: Attach) -> None:
    model = tiny.model()
    attached(model)
    returned: object = model.generate(
        tiny.prompt(40), max_new_tokens=4, return_dict_in_generate=True
    )
    assert isinstance(returned, ModelOutput)
    layer = returned["past_key_values"].layers[0]
    seen = layer.keys.clone()
    for seed in range(3):
        model.generate(tiny.prompt(40, seed=seed), max_new_tokens=4)
    assert torch.equal(layer.keys, seen)


def test_a_long_answer_outgrows_the_memory_that_was_set_aside(attached: Attach) -> None:
    model = tiny.model()
    engine = model.generate
    connector = attached(model)
    ids = tiny.prompt(20)
    restored = connector.restore(ids)
    room = restored.cache.memory.columns
    long = answer(connector.engine, ids, tokens=room, past_key_values=restored.cache)
    assert torch.equal(long.sequences, answer(engine, ids, tokens=room).sequences)
    assert restored.save(long.sequences) == (20 + room - 1) // BLOCK
