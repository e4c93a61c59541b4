"""What a transformers model's configuration says of its KV: layout, digest, producer.

Which layers keep a window is asked of the cache that transformers itself would build, so the two
cannot disagree.  Architectures are named one by one: that a prefix's KV depends on nothing behind
it, and on no state besides KV, cannot be read off a configuration.
"""

import json
from collections.abc import Mapping
from functools import partial
from hashlib import sha256
from typing import NamedTuple

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from ..kvstore.errors import LayoutError
from ..kvstore.identity import Identity, private_weights
from ..kvstore.layout import Group, Layout

FAMILIES = frozenset(
    {
        "gemma",
        "gemma2",
        "gemma3",
        "gemma3_text",
        "granite",
        "llama",
        "mistral",
        "mixtral",
        "olmo2",
        "phi3",
        "qwen2",
        "qwen2_moe",
        "qwen3",
        "qwen3_moe",
    }
)
"""Values of ``model_type`` whose KV this connector stores; each is in the tests."""

_SAYS_NOTHING = ("_name_or_path", "_model_name_or_path", "architectures", "transformers_version")


class _Kind(NamedTuple):
    window: int
    rope: str


class Description:
    """Who may share a model's KV as the model is configured at the moment.

    Every call of ``generate`` asks, and to work it out takes milliseconds, so that is done again
    only where something in the configuration is new.  Any thread may ask.
    """

    def __init__(
        self, model: PreTrainedModel, *, tenant: str = "", salt: str = "", block_tokens: int = 0
    ) -> None:
        self._model = model
        self._work_out = partial(
            identity_of, model, tenant=tenant, salt=salt, block_tokens=block_tokens
        )
        self._known = (self._look(), self._work_out())

    def identity(self) -> Identity:
        """The identity but for the weights, which it does not know.

        Raises ``LayoutError`` for a model whose KV cannot be reused any more.
        """
        seen, identity = self._known
        now = self._look()
        if now != seen:
            identity = self._work_out()
            self._known = (now, identity)
        return identity

    def _look(self) -> str:
        return f"{self._model.dtype} {_values(self._model.config)}"


def identity_of(
    model: PreTrainedModel, *, tenant: str = "", salt: str = "", block_tokens: int = 0
) -> Identity:
    """Who may share a model's KV; its weights are not known yet.

    Raises ``LayoutError`` for a model whose KV cannot be reused, or not by this connector.
    """
    return Identity(
        weights=private_weights(),
        layout=layout_of(model.config, model.dtype, block_tokens=block_tokens),
        config=config_digest(model.config),
        producer=producer_of(model.config.get_text_config(decoder=True), model.dtype),
        tenant=tenant,
        salt=salt,
    )


def layout_of(config: PreTrainedConfig, dtype: torch.dtype, *, block_tokens: int = 0) -> Layout:
    """The layout of a model's KV; ``dtype`` is what it computes in.

    Raises ``LayoutError`` for a model whose KV cannot be reused, or not by this connector.
    """
    text = config.get_text_config(decoder=True)
    _refuse(config, text)
    layers_of: dict[_Kind, list[int]] = {}
    for number, layer in enumerate(DynamicCache(config=text).layers):
        kind = _Kind(_window(config, layer), _rope(text, number))
        layers_of.setdefault(kind, []).append(number)
    heads = text.num_key_value_heads or text.num_attention_heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    groups = tuple(
        Group(
            layers=tuple(layers),
            heads=heads,
            head_dim=head_dim,
            dtype=str(dtype).removeprefix("torch."),
            kind="window" if kind.window else "full",
            window=kind.window,
            rope=kind.rope,
        )
        for kind, layers in layers_of.items()
    )
    return Layout(groups, block_tokens)


def config_digest(config: PreTrainedConfig) -> str:
    """SHA-256 over all of a configuration but where it came from, hexadecimal.

    Quantisation is part of it.
    """
    fields = {k: v for k, v in config.to_dict().items() if k not in _SAYS_NOTHING}
    return sha256(json.dumps(fields, sort_keys=True, default=str).encode()).hexdigest()


def producer_of(text: PreTrainedConfig, dtype: torch.dtype) -> str:
    """What computes the KV: engine, attention kernels, compute dtype.

    ``text`` is the decoder's own configuration: a vision tower may run on other kernels.
    """
    return f"transformers {text._attn_implementation} {str(dtype).removeprefix('torch.')}"


def _values(config: PreTrainedConfig) -> str:
    """Every field of a configuration, and of those inside it."""
    return repr(
        {
            name: _values(value) if isinstance(value, PreTrainedConfig) else value
            for name, value in vars(config).items()
        }
    )


def _refuse(config: PreTrainedConfig, text: PreTrainedConfig) -> None:
    """Raise for what the layout cannot tell apart from a plain decoder."""
    if config.model_type not in FAMILIES:
        raise LayoutError(
            f"model type {config.model_type!r} is not one that this connector stores: "
            f"{', '.join(sorted(FAMILIES))}"
        )
    if getattr(text, "use_bidirectional_attention", False):
        raise LayoutError(
            "this model attends to tokens behind the current one, so the KV of a prefix depends on "
            "what follows it and cannot be reused"
        )


def _window(config: PreTrainedConfig, layer: object) -> int:
    """Tokens that a layer's token attends to, 0 for all."""
    if type(layer) is DynamicLayer:
        return 0
    if type(layer) is DynamicSlidingWindowLayer:
        return int(layer.sliding_window)
    raise LayoutError(
        f"{config.model_type} has a layer that keeps more than keys and values: "
        f"{type(layer).__name__}"
    )


def _rope(text: PreTrainedConfig, layer: int) -> str:
    """How the layer turns its keys: the type, then every parameter by name."""
    parameters: Mapping[str, object] = text.rope_parameters or {}
    types = getattr(text, "layer_types", None)
    if types and types[layer] in parameters:
        parameters = parameters[types[layer]]  # type: ignore[assignment]
    if not parameters:
        return "none"
    rest = [f"{k}={v}" for k, v in sorted(parameters.items()) if k != "rope_type" and v is not None]
    return " ".join([str(parameters.get("rope_type", "default")), *rest])
