"""A model that says something: SmolLM2-135M-Instruct, on the first lines of a document."""

from collections.abc import Callable

import pytest
import torch
from transformers import BatchEncoding

from kvstrata.connectors.models import Loaded
from kvstrata.connectors.transformers import attach
from kvstrata.server.demo_script import documents
from tests.connectors.conftest import OpenStore
from tests.connectors.tiny import said

pytestmark = pytest.mark.model

TEXT = "\n".join(documents()[0].text.splitlines()[:5])
QUESTIONS = ("Which island gave lighthouses their name in French?", "Where is the oldest one?")


def asked(loaded: Loaded, questions: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """A padded batch of questions on the text."""
    loaded.tokenizer.padding_side = "left"
    encoded = loaded.tokenizer.apply_chat_template(
        [[{"role": "user", "content": f"{TEXT}\n\n{question}"}] for question in questions],
        add_generation_prompt=True,
        padding=True,
        return_tensors="pt",
        return_dict=True,
    )
    assert isinstance(encoded, BatchEncoding)
    return dict(encoded)


def text(loaded: Loaded, generate: Callable[..., object], questions: tuple[str, ...]) -> list[str]:
    """What the model says."""
    inputs = asked(loaded, questions)
    output = said(generate, **inputs, max_new_tokens=8)
    return [str(loaded.tokenizer.decode(row)) for row in output]


def test_two_questions_and_a_batch_of_both_get_the_same_answers(
    smol: Loaded, open_store: OpenStore
) -> None:
    with open_store() as store, attach(smol.model, store, weights=smol.directory) as connector:
        assert connector.weights.wait(60)
        alone = [text(smol, connector.engine, (question,)) for question in QUESTIONS]
        assert [text(smol, connector.generate, (question,)) for question in QUESTIONS] == alone
        counts = connector.counts
        assert counts.reused_tokens > 0.4 * counts.prompt_tokens
        cold = text(smol, connector.engine, QUESTIONS)
        assert text(smol, connector.generate, QUESTIONS) == cold
        assert connector.counts.reused_tokens - counts.reused_tokens > 0.7 * counts.prompt_tokens
    with open_store() as store, attach(smol.model, store, weights=smol.directory) as connector:
        assert connector.weights.wait(60)
        assert text(smol, connector.generate, QUESTIONS[1:]) == alone[1]
        assert connector.counts.frames_from_disk > 0
