"""Models of every family, a few thousand weights each, that count what they compute."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils.generic import ModelOutput

BLOCK = 8
WINDOW = 20
VOCABULARY = 300
EOS, PAD = 299, 0
CONTENT = (2, 290)  # tokens that mean nothing to the engine

_COMMON: Mapping[str, object] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "bos_token_id": 1,
    "eos_token_id": EOS,
    "pad_token_id": PAD,
}
_MIXED = ["sliding_attention", "full_attention", "sliding_attention", "sliding_attention"]
_EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
}
_EYES = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
_OWN: Mapping[str, Mapping[str, object]] = {
    "gemma2": {"sliding_window": WINDOW, "layer_types": _MIXED},
    "gemma3_text": {"sliding_window": WINDOW, "layer_types": _MIXED},
    "mistral": {"sliding_window": WINDOW},
    "mixtral": {"num_local_experts": 4},
    "phi3": {"sliding_window": WINDOW},
    "qwen2_moe": _EXPERTS,
    "qwen3_moe": _EXPERTS,
}
WINDOWED = ("gemma2", "gemma3", "gemma3_text", "mistral", "phi3")


if TYPE_CHECKING:

    class Model(PreTrainedModel):  # type: ignore[no-untyped-call]
        """A decoder, as far as types can say it."""

        generate: Callable[..., torch.Tensor]
        model: Any
        lm_head: torch.nn.Linear


class Answer(NamedTuple):
    """What a model said: tokens ``[row, column]`` and the logits of each new one."""

    sequences: torch.Tensor
    logits: torch.Tensor  # [step, row, vocabulary]


class Counting(torch.nn.Module):
    """An embedding that counts the tokens that go through it."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.weight = inner.weight
        self.computed = 0

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """The embeddings."""
        self.computed += ids.numel()
        embedded: torch.Tensor = self.inner(ids)
        return embedded


def config(family: str, **own: object) -> PreTrainedConfig:
    """A small configuration of a family."""
    if family == "gemma3":
        text = config("gemma3_text").to_dict()
        return Gemma3Config(text_config=text, vision_config=_EYES, mm_tokens_per_image=4)
    make: Callable[..., PreTrainedConfig] = CONFIG_MAPPING[family]
    return make(**{**_COMMON, **_OWN.get(family, {}), **own})


def model(family: str = "llama", *, seed: int = 0, **own: object) -> "Model":
    """A model with random weights, which follow from the seed."""
    made = plain_model(family, seed=seed, **own)
    made.set_input_embeddings(Counting(made.get_input_embeddings()))
    return made


def plain_model(family: str = "llama", *, seed: int = 0, **own: object) -> "Model":
    """The same, which counts nothing and can be saved."""
    torch.manual_seed(seed)
    kind: Any = Gemma3ForConditionalGeneration if family == "gemma3" else None
    make: Callable[..., Model] = kind or AutoModelForCausalLM.from_config
    made = make(config(family, **own))
    ends: Callable[..., GenerationConfig] = GenerationConfig
    made.generation_config = ends(eos_token_id=EOS, pad_token_id=PAD)
    made.train(mode=False)
    return made


def computed(model: "Model") -> int:
    """Tokens that went through the model since the last time that this was asked."""
    counter = model.get_input_embeddings()
    assert isinstance(counter, Counting)
    count, counter.computed = counter.computed, 0
    return count


def prompt(tokens: int, *, seed: int = 0, rows: int = 1) -> torch.Tensor:
    """Random text, ``[row, token]``."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(*CONTENT, (rows, tokens), generator=generator)


def said(generate: Callable[..., object], *args: object, **settings: object) -> torch.Tensor:
    """Tokens ``[row, column]``: what a model was told, and three or so that it says, greedily."""
    output = generate(*args, **{"do_sample": False, "max_new_tokens": 3, **settings})
    if isinstance(output, ModelOutput):
        output = output["sequences"]
    assert isinstance(output, torch.Tensor)
    return output


def answer(
    generate: Callable[..., object],
    input_ids: torch.Tensor,
    *,
    tokens: int = 12,
    **settings: object,
) -> Answer:
    """A greedy answer of exactly so many tokens, with its logits."""
    output = generate(
        input_ids,
        **{
            "attention_mask": torch.ones_like(input_ids),
            "max_new_tokens": tokens,
            "min_new_tokens": tokens,
            "do_sample": False,
            "return_dict_in_generate": True,
            "output_logits": True,
            **settings,
        },
    )
    assert isinstance(output, ModelOutput)
    return Answer(output["sequences"], torch.stack(output["logits"]))


def apart(a: Answer, b: Answer) -> float:
    """How far the logits of two answers are apart, at most."""
    return float((a.logits - b.logits).abs().max())
