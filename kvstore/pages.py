"""Where an engine's KV lies: what the store copies from and to.

``Pages`` is the seam to the engines: a request's blocks by number, gathered into and scattered
from canonical block bytes.  Engines implement it over their own caches (``connectors/pages.py``);
``ArrayPages`` is the plain one, over contiguous arrays.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .layout import Layout, Part

Bytes = NDArray[np.uint8]


class Pages(Protocol):
    """A request's KV in an engine's memory.

    ``part`` names the group and the shard; ``blocks`` are block numbers counted from the request's
    first token; each array is contiguous uint8 of ``[layer, plane, token, head, dim]``.  Called
    without any lock held, possibly from several threads for different blocks.
    """

    def gather(self, part: Part, blocks: Sequence[int], into: Sequence[Bytes]) -> None:
        """Copy the engine's KV of these blocks out, one array for each."""
        ...

    def scatter(
        self, part: Part, blocks: Sequence[int], data: Sequence[Bytes], layers: tuple[int, int]
    ) -> None:
        """Copy blocks in; of each array only the layers of the half-open range are valid."""
        ...


class ArrayPages:
    """Pages over one contiguous array for each part, ``[block, layer, plane, token, head, dim]``.

    ``arrays`` are uint8 views of shape ``[blocks, frame_bytes]``.
    """

    def __init__(self, layout: Layout, arrays: Mapping[Part, Bytes]) -> None:
        self._layout = layout
        self._arrays = arrays

    def gather(self, part: Part, blocks: Sequence[int], into: Sequence[Bytes]) -> None:
        """Copy blocks out of the arrays."""
        array = self._arrays[part]
        for block, target in zip(blocks, into, strict=True):
            np.copyto(target, array[block])

    def scatter(
        self, part: Part, blocks: Sequence[int], data: Sequence[Bytes], layers: tuple[int, int]
    ) -> None:
        """Copy blocks into the arrays."""
        array = self._arrays[part]
        step = array.shape[1] // len(self._layout.groups[part.group].layers)
        span = slice(layers[0] * step, layers[1] * step)
        for block, source in zip(blocks, data, strict=True):
            np.copyto(array[block, span], source[span])
