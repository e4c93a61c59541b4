"""No encoding: the block's own bytes, for tiers where copying is all the time there is.

Segment: the block's bytes as they are.
"""

from collections.abc import Sequence

import numpy as np

from ..kvstore.errors import CodecError
from ..kvstore.layout import Group
from .codec import (
    BASE,
    Block,
    Bytes,
    Encoded,
    Segment,
    Shape,
    block_bytes,
    layer_range,
    require_room,
    whole_base,
)


class Raw:
    """Copies.  Exact, and thread-safe for it keeps nothing."""

    name = "raw"
    number = 0

    def bound(self, group: Group, shape: Shape) -> int:
        """The block's own size."""
        return block_bytes(group, shape)

    def encode(self, blocks: Sequence[Block], into: Sequence[Bytes]) -> list[list[Segment]]:
        """Copy each block; one segment each."""
        encoded = []
        for block, buffer in zip(blocks, into, strict=True):
            require_room(buffer, block.data.size)
            np.copyto(buffer[: block.data.size], block.data)
            encoded.append([Segment(BASE, (0, block.shape[0]), block.data.size)])
        return encoded

    def decode(
        self,
        frames: Sequence[Sequence[Encoded]],
        into: Sequence[Block],
        *,
        layers: tuple[int, int] | None = None,
    ) -> None:
        """Copy the wanted layers of each frame; raises ``CodecError`` for a wrong length."""
        for frame, block in zip(frames, into, strict=True):
            data = whole_base(frame, block)
            if data.size != block.data.size:
                raise CodecError(f"{data.size} raw bytes for a block of {block.data.size}")
            first, end = layer_range(block, layers)
            step = block.data.size // block.shape[0]
            np.copyto(block.data[first * step : end * step], data[first * step : end * step])
