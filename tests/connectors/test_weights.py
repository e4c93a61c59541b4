"""Which weights a model has: unknown at first, known when they are read, and noticed to change."""

from collections.abc import Callable
from threading import Event
from typing import TYPE_CHECKING

import pytest
import torch

from kvstrata.connectors.weights import Weights, digest_of
from kvstrata.kvstore.errors import IdentityError
from tests.connectors import tiny

if TYPE_CHECKING:
    from tests.connectors.tiny import Model

WAIT_S = 60


def test_weights_are_private_until_they_are_read() -> None:
    read = Event()
    weights = Weights(tiny.model(), lambda: "a" * 64 if read.wait(WAIT_S) else "")
    assert weights.current().digest.startswith("private:")
    assert weights.current() == weights.current()
    read.set()
    assert weights.wait(WAIT_S)
    assert weights.current() == ("a" * 64, 0)


def in_place(model: "Model") -> None:
    """An optimizer's step."""
    with torch.no_grad():
        next(model.parameters()).add_(1)


def replaced(model: "Model") -> None:
    """A layer is given another weight."""
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())


def reloaded(model: "Model") -> None:
    """A checkpoint is loaded into the model."""
    model.load_state_dict(tiny.model(seed=1).state_dict())


def merged(model: "Model") -> None:
    """An adapter is merged into a layer, as peft does it: behind torch's back."""
    weight = model.model.layers[0].self_attn.q_proj.weight
    weight.data += 0.01 * torch.randn_like(weight)


@pytest.mark.parametrize("change", [in_place, replaced, reloaded, merged])
def test_a_change_is_noticed_and_read_again(change: Callable[["Model"], None]) -> None:
    model = tiny.model()
    weights = Weights(model, lambda: digest_of(model, None))
    assert weights.wait(WAIT_S)
    before = weights.current()
    change(model)
    assert weights.current().change == before.change + 1
    assert weights.wait(WAIT_S)
    assert (weights.current().digest != before.digest) == (change is not replaced)


def test_after_a_change_the_files_no_longer_speak_for_the_model() -> None:
    model = tiny.model()
    weights = Weights(model, lambda: "f" * 64)  # as if of the files that it was loaded from
    assert weights.wait(WAIT_S)
    assert weights.current().digest == "f" * 64
    in_place(model)
    assert weights.wait(WAIT_S)
    assert weights.current().digest == digest_of(model, None)


def test_weights_that_change_while_they_are_read_stay_private() -> None:
    model, begun, go_on = tiny.model(), Event(), Event()

    def slowly() -> str:
        begun.set()
        go_on.wait(WAIT_S)
        return "a" * 64

    weights = Weights(model, slowly)
    assert begun.wait(WAIT_S)
    in_place(model)
    go_on.set()
    assert weights.wait(WAIT_S)  # the second reading: it began when the change was noticed
    assert weights.current().change == 1


def test_a_change_that_nobody_can_see_can_be_told() -> None:
    model = tiny.model()
    weights = Weights(model, lambda: digest_of(model, None))
    assert weights.wait(WAIT_S)
    before = weights.current()
    model.lm_head.weight.data[1, 1] += 1
    assert weights.current() == before
    weights.forget()
    assert weights.wait(WAIT_S)
    assert weights.current().digest != before.digest


def test_weights_that_cannot_be_read_stay_private() -> None:
    def refuse() -> str:
        raise IdentityError("no bytes")

    weights = Weights(tiny.model(), refuse)
    assert not weights.wait(WAIT_S)
    assert weights.current().digest.startswith("private:")
