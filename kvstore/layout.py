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
_LIMITS = {"planes": 255, "heads": 65_535, "head_dim": 65_535}


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
        if not self.layers or list(self.layers) != sorted(set(self.layers)) or self.layers[0] < 0:
            raise LayoutError(f"layers must be ascending and not negative, not {self.layers}")
        if self.kind not in ("full", "window"):
            raise LayoutError(f"kind {self.kind!r} is neither 'full' nor 'window'")
        if (self.kind == "window") != (self.window > 0):
            raise LayoutError(f"a {self.kind} group cannot have window={self.window}")
        for name, limit in _LIMITS.items():
            if not 1 <= getattr(self, name) <= limit:
                raise LayoutError(f"{name}={getattr(self, name)} is not in 1..{limit}")
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
        if not 1 <= len(self.groups) <= 255:
            raise LayoutError(f"a layout has 1 to 255 groups, not {len(self.groups)}")
        if not 1 <= self.shards <= 255:
            raise LayoutError(f"shards={self.shards} is not in 1..255")
        if self.block_tokens == 0:
            object.__setattr__(self, "block_tokens", default_block_tokens(self.token_bytes))
        if self.block_tokens < 1 or self.block_tokens & (self.block_tokens - 1):
            raise LayoutError(f"block_tokens={self.block_tokens} is not a power of two")
        for group in range(len(self.groups)):
            self.group_shards(group)

    @property
    def token_bytes(self) -> int:
        """Bytes of one token's KV in the whole model."""
        return sum(group.token_bytes for group in self.groups)

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
