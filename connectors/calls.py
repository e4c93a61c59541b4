"""Reading a call of ``generate``: what the store can serve of it, or why it cannot.

Only what is understood is served.  An argument that is not known here might change positions,
masks or the KV itself, so it sends the call past the store, to the engine as it is.
"""

import inspect
import sys
from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

import torch
from transformers import GenerationConfig, GenerationMixin, PreTrainedModel

_SIGNATURE = inspect.signature(GenerationMixin.generate)
_HARMLESS = frozenset({
    "inputs", "input_ids", "attention_mask", "generation_config", "logits_processor",
    "stopping_criteria", "prefix_allowed_tokens_fn", "synced_gpus", "streamer",
    "negative_prompt_ids", "negative_prompt_attention_mask", "tokenizer", "trust_remote_code",
})  # fmt: skip
_OTHER_MODES = (
    "assistant_early_exit", "constraints", "dola_layers", "force_words_ids", "is_assistant",
    "penalty_alpha", "prompt_lookup_num_tokens", "token_healing", "use_mtp",
)  # fmt: skip
_MEDIA = ("mm_encoder_outputs", "pixel_values")
_OWN_CACHES = (None, "hybrid")  # what old Gemma models still ask for, and transformers ignores
_OWN_HOOKS = "transformers.utils.output_capturing"
_ROOM = 512  # tokens of an answer for which memory is set aside at once


class Reason(StrEnum):
    """Why a call went past the store, or why nothing of it was saved."""

    ARGUMENT = "an argument that the store does not understand"
    AUTOCAST = "autocast, so KV is not in the model's dtype"
    ADAPTER = "an adapter is plugged in"
    CACHE = "a cache of the caller's, a static or a quantised one, or none at all"
    CHANGED = "the weights changed while the model ran"
    DEVICES = "a model spread over several devices"
    HOOKS = "hooks that may change what the model computes"
    INPUT = "no input_ids of shape [batch, tokens]"
    INNER = "hidden states or attentions of the whole prompt asked for"
    LEFT = "the engine kept KV elsewhere: another shape or dtype than its configuration says"
    MASK = "a mask that is not left padding"
    MEDIA = "images, which the keys of tokens do not tell apart"
    MODE = "a generation mode that fills the cache in its own way"
    PROMPT_TUNING = "the model's inputs are prepared by somebody else (prompt tuning)"
    STORE = "the store cannot be asked"
    TRAINING = "training mode, so dropout may change KV"


class Call(NamedTuple):
    """A call that the store can serve."""

    ids: torch.Tensor  # [row, column]
    device: torch.device  # where the model computes
    mask: torch.Tensor | None  # [row, column], left padding; None for no padding
    copies: int  # sequences that the engine makes of each row
    is_beam: bool
    room: int  # tokens of an answer for which memory is set aside at once
    ends: tuple[int, ...]  # tokens that end an answer


def named(args: tuple[object, ...], kwargs: Mapping[str, object]) -> dict[str, object]:
    """Every argument of a call of ``generate`` by its name.

    Raises ``TypeError`` for what ``generate`` itself would not take.
    """
    bound = _SIGNATURE.bind(None, *args, **kwargs)
    known = {**bound.arguments, **bound.kwargs}
    return {name: value for name, value in known.items() if name not in ("self", "kwargs")}


def read(model: PreTrainedModel, arguments: Mapping[str, object]) -> Call | Reason:
    """What a call asks for; the reason where the store cannot serve it."""
    settings = _Settings(model, arguments)
    ids = arguments.get("input_ids", arguments.get("inputs"))
    if not isinstance(ids, torch.Tensor) or ids.ndim != 2 or not ids.numel():
        return Reason.INPUT
    reason = _state_reason(model) or _argument_reason(arguments, settings)
    if reason is not None:
        return reason
    mask = _mask(ids, arguments.get("attention_mask"), settings)
    if isinstance(mask, Reason):
        return mask
    beams = settings.number("num_beams", 1)
    return Call(
        ids,
        model.device,
        mask,
        copies=max(beams, settings.number("num_return_sequences", 1)),
        is_beam=beams > 1,
        room=_room(ids, settings),
        ends=tuple(settings.tokens("eos_token_id")),
    )


class _Settings:
    """Generation settings as ``generate`` resolves them: the call's, its config's, the model's."""

    def __init__(self, model: PreTrainedModel, arguments: Mapping[str, object]) -> None:
        self._arguments = arguments
        self._configs = (arguments.get("generation_config"), model.generation_config)

    def __getitem__(self, name: str) -> object:
        if self._arguments.get(name) is not None:
            return self._arguments[name]
        values = (getattr(config, name, None) for config in self._configs)
        return next((value for value in values if value is not None), None)

    def number(self, name: str, default: int) -> int:
        value = self[name]
        return value if isinstance(value, int) else default

    def tokens(self, name: str) -> list[int]:
        """A token number, several of them, or none."""
        value = self[name]
        if isinstance(value, torch.Tensor):
            value = value.tolist()
        if isinstance(value, int):
            return [value]
        return list(value) if isinstance(value, list | tuple) else []


def _state_reason(model: PreTrainedModel) -> Reason | None:
    """What the model's own state says against reuse."""
    modules = list(model.modules())
    peft = sys.modules.get("peft.tuners.tuners_utils")
    devices = set((getattr(model, "hf_device_map", None) or {}).values())
    against = {
        Reason.TRAINING: model.training,
        Reason.AUTOCAST: torch.is_autocast_enabled(model.device.type),
        Reason.DEVICES: len(devices) > 1 or model.tp_size is not None,
        Reason.PROMPT_TUNING: "prepare_inputs_for_generation" in vars(model),
        Reason.ADAPTER: peft and any(isinstance(m, peft.BaseTunerLayer) for m in modules),
        Reason.HOOKS: any(_is_hooked(m) for m in modules),
    }
    return next((reason for reason, is_so in against.items() if is_so), None)


def _is_hooked(module: torch.nn.Module) -> bool:
    """Whether somebody may change what the module computes from the weights.

    Once asked for attentions, transformers leaves hooks of its own that only look.
    """
    hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    return "forward" in vars(module) or any(hook.__module__ != _OWN_HOOKS for hook in hooks)


def _argument_reason(arguments: Mapping[str, object], settings: _Settings) -> Reason | None:
    """What the call's arguments say against reuse."""
    own_modes = (arguments.get("assistant_model"), arguments.get("custom_generate"))
    known = _HARMLESS | set(vars(GenerationConfig()))  # type: ignore[no-untyped-call]
    against = {
        Reason.CACHE: arguments.get("past_key_values") is not None
        or settings["cache_implementation"] not in _OWN_CACHES
        or settings["use_cache"] is False,
        Reason.MODE: own_modes != (None, None)
        or any(settings[name] for name in _OTHER_MODES)
        or settings.number("num_beam_groups", 1) > 1,
        Reason.INNER: settings["output_hidden_states"] or settings["output_attentions"],
        Reason.MEDIA: any(arguments.get(name) is not None for name in _MEDIA),
        Reason.ARGUMENT: any(
            value is not None and name not in known and not _says_text(name, value)
            for name, value in arguments.items()
        ),
    }
    return next((reason for reason, is_so in against.items() if is_so), None)


def _says_text(name: str, value: object) -> bool:
    """Whether an argument only says, as Gemma's processor does, that every token is text."""
    return name == "token_type_ids" and isinstance(value, torch.Tensor) and not value.any()


def _mask(ids: torch.Tensor, mask: object, settings: _Settings) -> torch.Tensor | Reason | None:
    """The mask that ``generate`` will use; None where nothing is padded."""
    if mask is None:
        pads = settings.tokens("pad_token_id")
        if not pads or set(pads) & set(settings.tokens("eos_token_id")):
            return None
        mask = torch.isin(ids, torch.tensor(pads, device=ids.device)).logical_not()
    if not isinstance(mask, torch.Tensor) or mask.shape != ids.shape:
        return Reason.MASK
    is_real = mask == 1
    if is_real.all():
        return None
    is_left_padding = bool((is_real[:, 1:] >= is_real[:, :-1]).all() and is_real[:, -1].all())
    return mask if is_left_padding and bool((is_real | (mask == 0)).all()) else Reason.MASK


def _room(ids: torch.Tensor, settings: _Settings) -> int:
    new = settings.number("max_new_tokens", 0)
    return min(_ROOM, new or max(1, settings.number("max_length", 0) - ids.shape[1]))
