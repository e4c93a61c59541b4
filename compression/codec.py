"""How a block becomes bytes at rest and comes back: the protocol that every codec implements.

A codec is pure and storage-free: arrays in, arrays out, no state that a call changes, so one
object serves every thread.  One method, one file; the store picks it by name from ``CODECS`` in
``codecs.py`` when it writes, and by number from a frame's segment table when it reads.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ..kvstore.errors import ArgumentError, CodecError
from ..kvstore.layout import DTYPE_BYTES, EXACT, Group

Bytes = NDArray[np.uint8]
Shape = tuple[int, int, int, int, int]
"""``[layer, plane, token, head, dim]`` of one shard of a block."""

BASE = 1
"""Segment kind of what every reader needs; a refinement (2) sharpens it and may be dropped."""
REFINEMENT = 2
ATTACHMENT = 3


class Segment(NamedTuple):
    """One encoded piece of a block, as the frame's segment table names it."""

    kind: int
    layers: tuple[int, int]  # half-open, positions within the group
    length: int  # bytes
    fidelity: int = EXACT
    calibration: int = 0  # which set of trained constants, 0 for none


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """What is encoded: one shard of a block, with what the engine attached to it.

    ``data`` is contiguous uint8 of ``[layer, plane, token, head, dim]`` in the group's dtype;
    ``shape`` has those five lengths.  ``attachments`` are there to be weighed (importance scores);
    the store writes them itself, as segments of their own.
    """

    group: Group
    shape: Shape
    data: Bytes
    attachments: Mapping[str, Bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        nbytes = block_bytes(self.group, self.shape)
        if self.data.shape != (nbytes,) or not self.data.flags.c_contiguous:
            raise ArgumentError(
                f"a block of shape {self.shape} in {self.group.dtype} is {nbytes} contiguous "
                f"bytes, not an array of shape {self.data.shape}"
            )


class Encoded(NamedTuple):
    """What is decoded: a segment and its bytes."""

    segment: Segment
    data: Bytes


class Codec(Protocol):
    """Encodes blocks into segments and back.

    ``name`` is what settings say and ``number`` what frames say; neither is ever reused.
    """

    @property
    def name(self) -> str: ...

    @property
    def number(self) -> int: ...

    def bound(self, group: Group, shape: Shape) -> int:
        """The most bytes that ``encode`` may write for one block of this shape."""
        ...

    def encode(self, blocks: Sequence[Block], into: Sequence[Bytes]) -> list[list[Segment]]:
        """Encode each block into its buffer; its segments lie end to end from the first byte on.

        Raises ``ArgumentError`` for a buffer of fewer than ``bound`` bytes.
        """
        ...

    def decode(
        self,
        frames: Sequence[Sequence[Encoded]],
        into: Sequence[Block],
        *,
        layers: tuple[int, int] | None = None,
    ) -> None:
        """Decode each frame's segments into its block's ``data``; ``layers`` None means all.

        With ``layers``, a half-open range of positions within the group, the bytes of other layers
        are left as they were.  Segments of kind ``ATTACHMENT`` are passed over.

        Raises ``CodecError`` where a segment does not decode to exactly its shape; what was
        written into ``into`` by then is undefined.  Never reads or allocates more than the shape
        allows, whatever the segments claim.
        """
        ...


def block_bytes(group: Group, shape: Shape) -> int:
    """Bytes of a block of this shape, not encoded."""
    layers, planes, tokens, heads, dim = shape
    return layers * planes * tokens * heads * dim * DTYPE_BYTES[group.dtype]


def whole_base(frame: Sequence[Encoded], block: Block) -> Bytes:
    """The bytes of the frame's one base segment, for codecs that write all layers as one.

    Raises ``CodecError`` where it is missing, doubled, of other layers or of another length than
    its segment says.
    """
    bases = [encoded for encoded in frame if encoded.segment.kind != ATTACHMENT]
    if len(bases) != 1 or bases[0].segment.kind != BASE:
        kinds = [encoded.segment.kind for encoded in bases]
        raise CodecError(f"one base segment was expected, not segments of kinds {kinds}")
    segment, data = bases[0]
    if segment.layers != (0, block.shape[0]):
        raise CodecError(f"a segment of layers {segment.layers} in a block of {block.shape[0]}")
    if segment.length != data.size:
        raise CodecError(f"a segment of {segment.length} bytes came as {data.size}")
    return data


def layer_range(block: Block, layers: tuple[int, int] | None) -> tuple[int, int]:
    """The layers that a decode is to fill; raises ``ArgumentError`` for what the block lacks."""
    first, end = (0, block.shape[0]) if layers is None else layers
    if not 0 <= first <= end <= block.shape[0]:
        raise ArgumentError(f"layers {layers} are not within a block of {block.shape[0]}")
    return first, end


def require_room(buffer: Bytes, bound: int) -> None:
    """Refuse, with ``ArgumentError``, to encode into a buffer that could overflow."""
    if buffer.size < bound:
        raise ArgumentError(f"a buffer of {buffer.size} bytes for an encoding of up to {bound}")
