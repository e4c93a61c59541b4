"""What one token's KV is for one model: groups of layers, their shapes, and how they are cut.

A layout belongs to the model, not to an engine, a rank or an engine's block size, so that two
engines that run the same model name the same bytes.  A block is the KV of ``block_tokens`` tokens
in one group, ``[shard, layer, plane, token, head, dim]``, contiguous per shard.

A model whose K and V differ in shape has two groups of one plane over the same layers; a model
whose layers differ in head count, head dim or attention window has one group for each kind.
"""

from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Literal, NamedTuple

from .errors import LayoutError

DTYPE_BYTES = {
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
}
EXACT = 255
"""Fidelity of KV as the engine computed it; whatever is lossy declares a smaller number (0-254)."""

_BLOCK_BYTES = 2 << 20
_LENGTH_DEPENDENT_ROPE = ("dynamic", "longrope")
_LIMITS = {
    "planes": (1, 255),
    "heads": (1, 65_535),
    "head_dim": (1, 65_535),
    "window": (0, 1 << 32),
}
_MAX_LAYERS = 65_535  # frames count a group's layers in 16 bits
_MAX_BLOCK_TOKENS = 1 << 31


@dataclass(frozen=True, slots=True)
class Group:
    """Layers whose KV has one shape and one reach.

    ``layers`` are the model's layer numbers, ascending; ``planes`` is 2 for K and V and 1 for MLA's
    latent; ``window`` is the number of tokens that a token attends to, itself included (0 where
    ``kind`` is ``"full"``); ``rope`` says how positions were put into K, its type first
    (``"default theta=10000.0"``), ``"none"`` where they were not.
    """

    layers: tuple[int, ...]
    heads: int
    head_dim: int
    dtype: str
    kind: Literal["full", "window"] = "full"
    window: int = 0
    planes: int = 2
    rope: str = "none"

    def __post_init__(self) -> None:
        if self.dtype not in DTYPE_BYTES:
            raise LayoutError(f"dtype {self.dtype!r} is not one of {', '.join(DTYPE_BYTES)}")
        _check_layers(self.layers)
        for name, (low, high) in _LIMITS.items():
            _check_number(name, getattr(self, name), low, high)
        if self.kind not in ("full", "window"):
            raise LayoutError(f"kind {self.kind!r} is neither 'full' nor 'window'")
        if (self.kind == "window") != (self.window > 0):
            raise LayoutError(f"a {self.kind} group cannot have window={self.window}")
        rope_type = self.rope.split(" ", 1)[0]
        if rope_type in _LENGTH_DEPENDENT_ROPE:
            raise LayoutError(
                f"rope type {rope_type!r} turns K by an angle that depends on the total length of "
                "the sequence, so K of the same prefix differs between requests and cannot be "
                "reused; switch the scaling off, or run this model without kvstrata"
            )

    @property
    def token_bytes(self) -> int:
        """Bytes of one token's KV in all layers of the group, all heads."""
        per_layer = self.planes * self.heads * self.head_dim * DTYPE_BYTES[self.dtype]
        return len(self.layers) * per_layer


class Part(NamedTuple):
    """What one frame holds of a block: one shard of one group."""

    group: int
    shard: int


@dataclass(frozen=True, slots=True)
class Layout:
    """One model's groups, the tokens in a block, and the shards that a block is cut into.

    ``block_tokens=0`` asks for the default: the power of two that brings a whole block, all groups
    together, to 1-2 MiB.  ``shards`` is the largest tensor-parallel degree that is to share.
    """

    groups: tuple[Group, ...]
    block_tokens: int = 0
    shards: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.groups, tuple) or not 1 <= len(self.groups) <= 255:
            raise LayoutError("a layout has a tuple of 1 to 255 groups")
        _check_number("shards", self.shards, 1, 255)
        _check_number("block_tokens", self.block_tokens, 0, _MAX_BLOCK_TOKENS)
        if self.block_tokens == 0:
            object.__setattr__(self, "block_tokens", default_block_tokens(self.token_bytes))
        if self.block_tokens & (self.block_tokens - 1):
            raise LayoutError(f"block_tokens={self.block_tokens} is not a power of two")
        for group in range(len(self.groups)):
            self.group_shards(group)

    @property
    def token_bytes(self) -> int:
        """Bytes of one token's KV in the whole model."""
        return sum(group.token_bytes for group in self.groups)

    @property
    def parts(self) -> tuple[Part, ...]:
        """What a whole block is made of: every stored shard of every group, in order."""
        groups = range(len(self.groups))
        return tuple(Part(g, shard) for g in groups for shard in range(self.group_shards(g)))

    def group_shards(self, group: int) -> int:
        """Shards that this group is stored in: replicated heads are stored once."""
        heads = self.groups[group].heads
        if heads % self.shards == 0:
            return self.shards
        if self.shards % heads == 0:
            return heads
        raise LayoutError(f"{heads} KV heads cannot be cut into {self.shards} shards evenly")

    def frame_bytes(self, group: int, tokens: int) -> int:
        """Bytes of one shard of a block of ``tokens`` tokens in ``group``, uncompressed."""
        return self.groups[group].token_bytes * tokens // self.group_shards(group)

    def frame_shape(self, group: int, tokens: int) -> tuple[int, int, int, int, int]:
        """Shape of one shard of a block: ``[layer, plane, token, head, dim]``."""
        g = self.groups[group]
        heads = g.heads // self.group_shards(group)
        return len(g.layers), g.planes, tokens, heads, g.head_dim

    def window_blocks(self, group: int) -> int:
        """Blocks before a restored length that the next token attends to; 0 means all of them."""
        g = self.groups[group]
        return max(1, -(-(g.window - 1) // self.block_tokens)) if g.kind == "window" else 0

    def fingerprint(self) -> str:
        """SHA-256 over every field, hexadecimal."""
        return sha256(repr(self).encode()).hexdigest()


def default_block_tokens(token_bytes: int, *, at_least: int = 1) -> int:
    """The power of two, no less than ``at_least``, that brings a block to 1-2 MiB."""
    tokens = 1
    while tokens < at_least or 2 * tokens * token_bytes <= _BLOCK_BYTES:
        tokens *= 2
    return tokens


def with_shards(layout: Layout, shards: int) -> Layout:
    """The same model cut for another tensor-parallel degree."""
    return replace(layout, shards=shards)


def _check_layers(layers: tuple[int, ...]) -> None:
    if not isinstance(layers, tuple) or not all(type(layer) is int for layer in layers):
        raise LayoutError(f"layers must be a tuple of integers, not {layers!r}")
    if not layers or list(layers) != sorted(set(layers)) or layers[0] < 0:
        raise LayoutError(f"layers must be ascending and not negative, not {layers}")
    if len(layers) > _MAX_LAYERS:
        raise LayoutError(f"a group has at most {_MAX_LAYERS} layers, not {len(layers)}")


def _check_number(name: str, value: int, low: int, high: int) -> None:
    # int itself: True or numpy's 1 would give equal layouts another fingerprint
    if type(value) is not int or not low <= value <= high:
        raise LayoutError(f"{name}={value!r} is not an integer in {low}..{high}")
