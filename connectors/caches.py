"""The cache that transformers fills: its own layers, over a ``KVMemory`` instead of loose tensors.

The layers keep transformers' semantics and differ in where KV lies.  New columns are written in
place, and window layers, which transformers trims to what the next token attends to, show that
much and keep the rest, so that every block can be saved.

Where the engine asks for what cannot be done in place, a layer goes on as transformers' own, and
the memory is no longer intact: what it holds is not saved.
"""

import torch
from transformers.cache_utils import (
    Cache,
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
)

from ..kvstore.layout import Layout
from .memory import KVMemory, Lane

KV = tuple[torch.Tensor, torch.Tensor]  # each [row, head, token, dim]


class FullLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """A layer whose tokens attend to everything before them."""

    def __init__(self, lane: Lane) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._lane: Lane | None = lane
        self._restored = lane.columns
        self._show(lane)
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: object, **_ignored: object
    ) -> KV:
        """Append new KV; what the new tokens attend to."""
        lane = self._lane
        if lane is None or not lane.takes(key_states):
            self._leave()
            return super().update(key_states, value_states)
        first = self._first_shown(lane.columns)
        lane.append(key_states, value_states)
        self._show(lane)
        return lane.view(first)

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last ``-tokens_to_remove`` tokens."""
        lane = self._lane
        if lane is None or not self._can_crop(lane.columns + tokens_to_remove):
            self._leave()
            super().crop(tokens_to_remove)
        elif tokens_to_remove:
            lane.columns += tokens_to_remove
            self._show(lane)

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Continue each row from the row that ``beam_idx`` names for it."""
        if self._lane is None:
            super().reorder_cache(beam_idx)
        else:
            self._lane.reorder(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row."""
        self._leave()
        super().batch_repeat_interleave(repeats)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep some rows."""
        self._leave()
        super().batch_select_indices(indices)

    def reset(self) -> None:
        """Forget everything."""
        self._leave()
        super().reset()

    def _first_shown(self, columns: int) -> int:
        return 0

    def _can_crop(self, columns: int) -> bool:
        return columns >= 0

    def _show(self, lane: Lane) -> None:
        self.keys, self.values = lane.view(self._first_shown(lane.columns))
        self.dtype, self.device = self.keys.dtype, self.keys.device

    def _leave(self) -> None:
        """Go on as transformers' own layer, with what is shown."""
        if self._lane is None:
            return
        self._lane.memory.intact = False
        if self._lane.columns == 0:
            self.keys = self.values = None
            self.is_initialized = False
        self._lane = None


class WindowLayer(FullLayer, DynamicSlidingWindowLayer):  # type: ignore[no-untyped-call]
    """A layer whose tokens attend to ``sliding_window`` tokens, themselves included."""

    def __init__(self, lane: Lane, window: int) -> None:
        DynamicSlidingWindowLayer.__init__(self, window)
        self._lane = lane
        self._restored = lane.columns
        self._show(lane)
        self.is_initialized = True

    def _first_shown(self, columns: int) -> int:
        return max(0, columns - self.sliding_window + 1)

    def _can_crop(self, columns: int) -> bool:
        return columns >= self._restored  # of what was restored only the last window is there

    def _show(self, lane: Lane) -> None:
        super()._show(lane)
        self.cumulative_length = lane.columns
        self._sliding_window_tensor = self._sliding_window_tensor.to(self.device)


class KVCache(DynamicCache):
    """What ``generate`` takes as ``past_key_values``: ``columns`` of the memory are filled."""

    def __init__(self, memory: KVMemory, columns: int) -> None:
        lanes = _lanes(memory, columns)
        Cache.__init__(self, layers=[_layer(memory.layout, lanes[n]) for n in sorted(lanes)])
        self.memory = memory

    @property
    def columns(self) -> int:
        """Columns that every layer has; a forward pass that was broken off leaves them unequal."""
        return min(self.get_seq_length(number) for number in range(len(self.layers)))


def _lanes(memory: KVMemory, columns: int) -> dict[int, Lane]:
    """A lane for every layer, by the layer's number in the model."""
    return {
        layer: Lane(memory, group=g, index=i, columns=columns)
        for g, group in enumerate(memory.layout.groups)
        for i, layer in enumerate(group.layers)
    }


def _layer(layout: Layout, lane: Lane) -> FullLayer:
    group = layout.groups[lane.group]
    return WindowLayer(lane, group.window) if group.kind == "window" else FullLayer(lane)
