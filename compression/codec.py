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

from ..kvstore.layout import EXACT, Group

Bytes = NDArray[np.uint8]

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


@dataclass(frozen=True, slots=True)
class Block:
    """What is encoded: one shard of a block, with what the engine attached to it.

    ``data`` is contiguous uint8 of ``[layer, plane, token, head, dim]`` in the group's dtype;
    ``shape`` has those five lengths.
    """

    group: Group
    shape: tuple[int, int, int, int, int]
    data: Bytes
    attachments: Mapping[str, Bytes] = field(default_factory=dict)


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

    def bound(self, group: Group, shape: tuple[int, int, int, int, int]) -> int:
        """The most bytes that ``encode`` may write for one block of this shape."""
        ...

    def encode(self, blocks: Sequence[Block], into: Sequence[Bytes]) -> list[list[Segment]]:
        """Encode each block into its buffer (at least ``bound`` bytes); segments lie end to end."""
        ...

    def decode(
        self,
        frames: Sequence[Sequence[Encoded]],
        into: Sequence[Block],
        *,
        layers: tuple[int, int] | None = None,
    ) -> None:
        """Decode each frame's segments into its block's ``data``; ``layers`` None means all.

        Raises ``CodecError`` where a segment does not decode to exactly its shape; what was
        written into ``into`` by then is undefined.
        """
        ...
