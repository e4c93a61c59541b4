"""What a configuration says of a model's KV, and the models that are refused."""

import pytest
import torch
from transformers import BertConfig, GPT2Config, MambaConfig, PreTrainedConfig, T5Config

from kvstrata.connectors.architecture import (
    FAMILIES,
    Description,
    config_digest,
    identity_of,
    layout_of,
    producer_of,
)
from kvstrata.kvstore.errors import LayoutError
from kvstrata.kvstore.layout import Group
from tests.connectors import tiny


def layout(family: str, **own: object) -> tuple[Group, ...]:
    """The groups of a small model of a family."""
    return layout_of(tiny.config(family, **own), torch.bfloat16).groups


def test_a_plain_model_has_one_group() -> None:
    rope = "default rope_theta=10000.0"
    assert layout("llama") == (Group((0, 1, 2, 3), 2, 16, "bfloat16", rope=rope),)


def test_a_model_of_windows_has_one_group() -> None:
    (group,) = layout("mistral")
    assert (group.kind, group.window) == ("window", tiny.WINDOW)


def test_window_layers_and_full_layers_are_apart() -> None:
    windows, full = layout("gemma3_text")
    assert (windows.layers, windows.kind, windows.window) == ((0, 2, 3), "window", tiny.WINDOW)
    assert (full.layers, full.kind, full.window) == ((1,), "full", 0)
    assert windows.rope == "default rope_theta=10000.0"
    assert full.rope == "default rope_theta=1000000.0"


def test_a_model_with_eyes_is_known_by_its_text() -> None:
    assert layout("gemma3") == layout("gemma3_text")


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_covers_all_its_layers(family: str) -> None:
    groups = layout(family)
    assert sorted(layer for group in groups for layer in group.layers) == [0, 1, 2, 3]
    assert {(group.heads, group.head_dim) for group in groups} == {(2, 16)}


def test_a_head_dim_that_is_not_said_follows_from_the_width() -> None:
    (group,) = layout("qwen2", head_dim=None, hidden_size=96)
    assert group.head_dim == 96 // 4


@pytest.mark.parametrize(
    ("rope", "reason"),
    [
        ({"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}, "total length"),
        (
            {
                "rope_type": "longrope",
                "rope_theta": 10000.0,
                "short_factor": [1.0] * 8,
                "long_factor": [2.0] * 8,
                "factor": 2.0,
                "original_max_position_embeddings": 64,
            },
            "total length",
        ),
    ],
    ids=["dynamic", "longrope"],
)
def test_rope_that_depends_on_the_length_is_refused(rope: dict[str, object], reason: str) -> None:
    with pytest.raises(LayoutError, match=reason):
        layout("llama", rope_parameters=rope)


def test_rope_that_does_not_is_part_of_the_layout() -> None:
    rope = {
        "rope_type": "yarn",
        "factor": 4.0,
        "rope_theta": 5e5,
        "original_max_position_embeddings": 512,
    }
    (group,) = layout("qwen3", rope_parameters=rope)
    assert group.rope.startswith("yarn ")
    assert "factor=4.0" in group.rope


@pytest.mark.parametrize("config", [BertConfig(), GPT2Config(), MambaConfig(), T5Config()])
def test_a_model_that_nobody_tested_is_refused_by_name(config: PreTrainedConfig) -> None:
    with pytest.raises(LayoutError, match=config.model_type):
        layout_of(config, torch.float32)


def test_a_model_that_looks_ahead_is_refused() -> None:
    with pytest.raises(LayoutError, match="behind the current one"):
        layout("gemma3_text", use_bidirectional_attention=True)


def test_where_a_configuration_came_from_does_not_change_its_digest() -> None:
    here, there = tiny.config("llama"), tiny.config("llama", name_or_path="somewhere/else")
    assert config_digest(here) == config_digest(there)


@pytest.mark.parametrize(
    "own",
    [
        {"rms_norm_eps": 1e-4},
        {"max_position_embeddings": 99},
        {"quantization_config": {"bits": 4}},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1.0}},
    ],
    ids=str,
)
def test_every_other_field_changes_the_digest(own: dict[str, object]) -> None:
    assert config_digest(tiny.config("llama")) != config_digest(tiny.config("llama", **own))


def test_kernels_and_dtypes_are_told_apart() -> None:
    eager, sdpa = tiny.config("llama"), tiny.config("llama")
    eager._attn_implementation, sdpa._attn_implementation = "eager", "sdpa"
    names = {
        producer_of(config, dtype)
        for config in (eager, sdpa)
        for dtype in (torch.float32, torch.bfloat16)
    }
    assert len(names) == 4
    assert all(name.startswith("transformers ") for name in names)


def test_the_kernels_of_the_text_count_and_not_those_of_the_eyes() -> None:
    model = tiny.plain_model("gemma3")
    before = identity_of(model)
    model.set_attn_implementation({"vision_config": "eager"})
    assert identity_of(model).producer == before.producer
    model.set_attn_implementation({"text_config": "eager"})
    assert identity_of(model).producer != before.producer


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_a_configuration_is_read_again_where_something_in_it_is_new(family: str) -> None:
    model = tiny.plain_model(family)
    description = Description(model, block_tokens=tiny.BLOCK)
    first = description.identity()
    assert description.identity() is first
    model.config.get_text_config(decoder=True).rms_norm_eps = 0.1
    assert description.identity().differences(first) == ("weights", "config")
    model.bfloat16()
    assert "producer" in description.identity().differences(first)


def test_a_model_that_becomes_one_that_is_refused_is_refused() -> None:
    model = tiny.plain_model("gemma3_text")
    description = Description(model)
    model.config.use_bidirectional_attention = True
    for _ in range(2):
        with pytest.raises(LayoutError, match="behind the current one"):
            description.identity()
