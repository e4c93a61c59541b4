"""What is read off a call of ``generate`` before anything is computed."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from kvstrata.connectors.calls import Call, Reason, named, read
from tests.connectors import tiny

IDS = tiny.prompt(20, rows=2)
MODEL = tiny.plain_model()


def as_settings(settings: Mapping[str, object]) -> list[dict[str, object]]:
    """The same wish, as arguments and as a configuration."""
    config: Any = GenerationConfig
    return [dict(settings), {"generation_config": config(**settings)}]


@pytest.mark.parametrize(
    "settings",
    [
        {"penalty_alpha": 0.6, "top_k": 4},
        {"dola_layers": "low"},
        {"prompt_lookup_num_tokens": 3},
        {"assistant_early_exit": 2},
        {"token_healing": True},
        {"use_mtp": True},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_modes_that_fill_the_cache_in_their_own_way(settings: Mapping[str, object]) -> None:
    for arguments in as_settings(settings):
        assert read(MODEL, {"input_ids": IDS, **arguments}) is Reason.MODE


@pytest.mark.parametrize("name", ["static", "quantized", "offloaded", "dynamic"])
def test_caches_of_another_kind(name: str) -> None:
    for arguments in as_settings({"cache_implementation": name}):
        assert read(MODEL, {"input_ids": IDS, **arguments}) is Reason.CACHE


def test_a_mode_of_the_callers_own() -> None:
    assert read(MODEL, {"input_ids": IDS, "custom_generate": lambda **_: IDS}) is Reason.MODE


@pytest.mark.parametrize("ids", [None, [[1, 2, 3]], IDS[0], IDS[None], IDS[:, :0]])
def test_prompts_that_are_no_table_of_tokens(ids: object) -> None:
    assert read(MODEL, {"input_ids": ids}) is Reason.INPUT


def test_what_is_not_known_is_not_served_unless_it_is_none() -> None:
    assert read(MODEL, {"input_ids": IDS, "cross_attention_mask": IDS}) is Reason.ARGUMENT
    assert isinstance(read(MODEL, {"input_ids": IDS, "position_ids": None}), Call)


def test_arguments_have_their_names_wherever_they_stand() -> None:
    config = GenerationConfig()  # type: ignore[no-untyped-call]
    expected = {"inputs": IDS, "generation_config": config, "max_new_tokens": 3}
    assert named((IDS, config), {"max_new_tokens": 3}) == expected
    assert named((IDS,), {"generation_config": config, "max_new_tokens": 3}) == expected
    assert named((), {"input_ids": IDS, "logits_processor": None}) == {
        "input_ids": IDS,
        "logits_processor": None,
    }


@pytest.mark.parametrize(("args", "kwargs"), [((IDS,) * 12, {}), ((IDS,), {"inputs": IDS})])
def test_what_generate_does_not_take_is_not_taken(
    args: tuple[torch.Tensor, ...], kwargs: Mapping[str, object]
) -> None:
    with pytest.raises(TypeError):
        named(args, kwargs)


@pytest.mark.parametrize(
    ("settings", "copies"),
    [
        ({}, 1),
        ({"num_return_sequences": 3, "do_sample": True}, 3),
        ({"num_beams": 4, "num_return_sequences": 2}, 4),
    ],
    ids=str,
)
def test_copies_are_the_rows_that_the_engine_makes_of_one(
    settings: Mapping[str, object], copies: int
) -> None:
    for arguments in as_settings(settings):
        call = read(MODEL, {"input_ids": IDS, **arguments})
        assert isinstance(call, Call)
        assert (call.copies, call.is_beam) == (copies, "num_beams" in settings)


@pytest.mark.parametrize(
    ("eos", "ends"), [(5, (5,)), ([5, 6], (5, 6)), (torch.tensor([5, 6]), (5, 6))]
)
def test_answers_end_at_what_the_call_says(eos: object, ends: tuple[int, ...]) -> None:
    call = read(MODEL, {"input_ids": IDS, "eos_token_id": eos})
    assert isinstance(call, Call)
    assert call.ends == ends
    default = read(MODEL, {"input_ids": IDS})
    assert isinstance(default, Call)
    assert default.ends == (tiny.EOS,)
