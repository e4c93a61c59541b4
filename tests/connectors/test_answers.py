"""What is saved of answers, and whose memory they lie in."""

import pytest
import torch
from transformers.utils.generic import ModelOutput

from kvstrata.connectors.calls import Reason
from kvstrata.connectors.pages import MemoryPages
from kvstrata.kvstore.layout import EXACT
from tests.connectors import tiny
from tests.connectors.conftest import Attach
from tests.connectors.tiny import BLOCK, answer, apart, computed, said


def test_several_answers_of_one_prompt_are_all_saved(attached: Attach) -> None:
    model = tiny.model()
    connector = attached(model)
    ids = tiny.prompt(40)
    torch.manual_seed(1)
    several = answer(model.generate, ids, do_sample=True, num_return_sequences=3, tokens=16)
    assert len({tuple(row) for row in several.sequences.tolist()}) == 3
    for row in several.sequences:
        before = connector.counts.reused_tokens
        warm = answer(model.generate, row[None])
        assert connector.counts.reused_tokens - before == (40 + 15) // BLOCK * BLOCK
        assert apart(warm, answer(connector.engine, row[None])) < 1e-5


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


def test_what_is_computed_behind_weaker_kv_is_no_better(attached: Attach) -> None:
    model = tiny.model()
    connector = attached(model)
    ids = tiny.prompt(77)
    restored = connector.restore(ids)
    answer(connector.engine, ids, past_key_values=restored.cache)
    space = connector.store.space(connector.identity)
    pages, start = MemoryPages(restored.cache.memory, 0), ids[0, :40].numpy()
    space.save(start, pages, fidelity=100)
    answer(model.generate, ids)
    space.save(start, pages)  # a better copy of the beginning, which the rest was not computed from
    assert space.match(start).fidelity == EXACT
    assert space.match(ids[0].numpy()).fidelity == 100


def test_an_engine_that_keeps_kv_elsewhere_saves_nothing(attached: Attach) -> None:
    model = tiny.model()
    connector = attached(model)
    ids = tiny.prompt(40)
    restored = connector.restore(ids)
    restored.cache.reset()  # type: ignore[no-untyped-call]
    warm = answer(connector.engine, ids, past_key_values=restored.cache)
    assert restored.save(warm.sequences) == 0
    assert connector.store.stats().blocks == 0
    assert connector.counts.bypassed == {Reason.LEFT: 1}
