"""Batches of different prompts: what they reuse together, and that their answers stay the same."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvstrata.connectors.batches import Row, common_column
from kvstrata.connectors.transformers import attach
from kvstrata.kvstore.layout import Group, Layout
from kvstrata.kvstore.plan import Plan
from kvstrata.kvstore.store import Store
from tests.connectors import tiny
from tests.connectors.conftest import Attach
from tests.connectors.tiny import BLOCK, PAD, WINDOWED, Answer, answer, apart, computed, said

if TYPE_CHECKING:
    from tests.connectors.tiny import Model

FULL = Layout((Group((0,), 1, 4, "float32"),), block_tokens=BLOCK)
WINDOWS = Layout((Group((0,), 1, 4, "float32", "window", window=20),), block_tokens=BLOCK)


def padded(*rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows ``[token]`` as a batch, and its mask."""
    width = max(len(row) for row in rows)
    ids = torch.stack([torch.nn.functional.pad(row, (width - len(row), 0)) for row in rows])
    pads = torch.tensor([width - len(row) for row in rows])
    return ids, (torch.arange(width) >= pads[:, None]).long()


def asked(generate: Callable[..., object], rows: list[torch.Tensor]) -> Answer:
    """A greedy answer to a padded batch."""
    ids, mask = padded(*rows)
    return answer(generate, ids, attention_mask=mask, tokens=6)


def row(tokens: int, pad: int, *stored_blocks: int) -> Row:
    """A row of which these lengths are stored."""
    lengths = tuple(BLOCK * blocks for blocks in stored_blocks)
    plan = Plan((), (), np.zeros((1, 0), np.uint8), lengths, 255, tokens)
    return Row(np.zeros(tokens, np.int64), pad, plan)


@pytest.mark.parametrize("family", ["llama", "qwen2", *WINDOWED])
@pytest.mark.parametrize("pad", [18, 19])  # with 18, the first row's window needs a block more
def test_a_padded_batch_reuses_up_to_its_shortest_common_slot(
    family: str, pad: int, attached: Attach
) -> None:
    model = tiny.model(family)
    engine = model.generate
    connector = attached(model)
    long, short = tiny.prompt(70)[0], tiny.prompt(70 - pad, seed=1)[0]
    for each in (long, short):
        answer(model.generate, each[None], tokens=1)
    rows = [torch.cat([long[:64], short[:6]]), torch.cat([short[:40], long[: 30 - pad]])]
    before = connector.counts.reused_tokens
    computed(model)
    warm = asked(model.generate, rows)
    # the padding and 40 tokens end the common slot; the first row has more
    assert connector.counts.reused_tokens - before == (pad + 40) + 40
    assert computed(model) == 2 * (70 - (pad + 40) + 5)
    cold = asked(engine, rows)
    assert torch.equal(warm.sequences, cold.sequences)
    assert apart(warm, cold) < 1e-5


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
@pytest.mark.parametrize(
    "settings",
    [{"num_beams": 3}, {"num_return_sequences": 3, "do_sample": True}],
    ids=lambda settings: next(iter(settings)),
)
def test_several_answers_of_padded_rows_are_the_engines_own(
    family: str, settings: Mapping[str, object], attached: Attach
) -> None:
    model = tiny.model(family)
    connector = attached(model)
    rows = [tiny.prompt(70)[0], tiny.prompt(51, seed=1)[0]]
    for each in rows:
        answer(model.generate, each[None], tokens=1)
    ids, mask = padded(*rows)

    def several(generate: Callable[..., object]) -> torch.Tensor:
        torch.manual_seed(1)
        return said(generate, ids, attention_mask=mask, max_new_tokens=20, **settings)

    cold = several(connector.engine)
    assert torch.equal(several(model.generate), cold)
    assert connector.counts.reused_tokens == 64 + (64 - 19)
    connector.store.audit()


def test_text_is_found_again_whatever_its_padding(attached: Attach) -> None:
    model = tiny.model()
    connector = attached(model)
    text = tiny.prompt(40)[0]
    ids, mask = padded(text, tiny.prompt(53, seed=1)[0])
    model.generate(ids, attention_mask=mask, max_new_tokens=1)
    assert connector.restore(text[None]).reused_tokens == 40 - 1
    answer(connector.engine, text[None], past_key_values=connector.restore(text[None]).cache)


def test_padding_is_not_computed(attached: Attach) -> None:
    model = tiny.model()
    connector = attached(model)
    text = tiny.prompt(20)
    cold = answer(connector.engine, text)
    ids = torch.nn.functional.pad(text, (30, 0))
    computed(model)
    warm = answer(model.generate, ids, attention_mask=(ids != PAD).long())
    assert computed(model) == 20 + 11
    assert torch.equal(warm.sequences[:, 30:], cold.sequences)


def test_a_row_of_which_nothing_is_stored_keeps_a_batch_from_reuse(attached: Attach) -> None:
    model = tiny.model()
    connector = attached(model)
    known, unknown = tiny.prompt(40), tiny.prompt(40, seed=1)
    answer(model.generate, known, tokens=1)
    answer(model.generate, torch.cat([known, unknown]), tokens=1)
    assert connector.counts.reused_tokens == 0


def test_equal_rows_are_stored_once(attached: Attach) -> None:
    model = tiny.model()
    connector = attached(model)
    answer(model.generate, tiny.prompt(40).repeat(3, 1), tokens=1)
    assert connector.store.stats().blocks == 40 // BLOCK


def test_a_slot_may_lie_anywhere_in_a_block() -> None:
    assert common_column(FULL, [row(50, 0, 1, 2, 3, 4), row(40, 10, 1, 2)]) == 26


def test_a_slot_never_takes_the_last_token() -> None:
    assert common_column(FULL, [row(16, 0, 1, 2)]) == 15
    assert common_column(FULL, [row(40, 0, 1, 2, 3, 4), row(1, 39)]) == 32


def test_a_window_needs_the_block_in_which_it_begins() -> None:
    # behind 26 tokens the window begins at token 7, and the three blocks before token 32 at token 8
    second = row(40, 10, 1, 2)
    assert common_column(WINDOWS, [row(50, 0, 3, 4), second]) == 26
    assert common_column(WINDOWS, [row(50, 0, 2, 4), second]) == 16
    assert common_column(WINDOWS, [row(50, 0, 2, 4), row(40, 11, 1, 2)]) == 27


@pytest.fixture(scope="module")
def mixed() -> "Model":
    """Window and full layers."""
    return tiny.model("gemma3_text")


texts = st.tuples(st.integers(0, 2), st.integers(0, 60), st.integers(1, 20))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=12)
@given(batches=st.lists(st.lists(texts, min_size=1, max_size=3), min_size=2, max_size=4))
def test_batches_of_any_shape_get_the_engines_answers(
    batches: list[list[tuple[int, int, int]]], mixed: "Model", store: Store
) -> None:
    engine = mixed.generate
    with attach(mixed, store, block_tokens=BLOCK) as connector:
        assert connector.weights.wait(60)
        for batch in batches:
            rows = [
                torch.cat([tiny.prompt(60, seed=text)[0][:shared], tiny.prompt(own, seed=own)[0]])
                for text, shared, own in batch
            ]
            warm, cold = asked(mixed.generate, rows), asked(engine, rows)
            assert torch.equal(warm.sequences, cold.sequences)
            assert apart(warm, cold) < 1e-4
        store.audit()
