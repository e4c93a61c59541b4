"""One batch between the store and the engine: what is restored goes in, what is new comes back.

A batch's KV lies in a ``KVMemory`` that the engine fills through a ``KVCache``.  Saving takes the
sequences as the engine ended them: of each, every full block whose tokens all went through the
model, which the last token of an answer did not.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from ..kvstore.errors import ArgumentError
from .batches import common_column, restore, rows_of
from .caches import KVCache
from .calls import Call, Reason
from .connector import SpaceConnector
from .memory import KVMemory, Shelf
from .pages import MemoryPages
from .tally import Tally


class Restoration:
    """A batch whose stored part is in ``cache``, to be handed to the model.

    ``columns`` of the batch are there, padding included; ``reused_tokens`` of the prompts' tokens
    came from the store.  ``is_current`` says whether the model still has the weights that it had.
    One thread at a time uses it.
    """

    def __init__(
        self,
        connector: SpaceConnector,
        call: Call,
        *,
        shelf: Shelf,
        tally: Tally,
        is_current: Callable[[], bool],
    ) -> None:
        layout = connector.space.layout
        self._connector = connector
        self._call = call
        self._shelf = shelf
        self._tally = tally
        self._is_current = is_current
        self._rows = rows_of(connector, call.ids, call.mask)
        self._memory = KVMemory(
            layout,
            len(self._rows) * call.copies,
            columns=call.ids.shape[1] + call.room,
            device=call.device,
            shelf=shelf,
        )
        self.columns, self._loaded = restore(
            connector,
            self._memory,
            self._rows,
            copies=call.copies,
            columns=common_column(layout, self._rows),
        )
        self.cache = KVCache(self._memory, self.columns)
        self.prompt_tokens = sum(len(row.tokens) for row in self._rows)
        self.reused_tokens = sum(loaded.tokens for loaded in self._loaded)
        tally.restore(
            prompt_tokens=self.prompt_tokens,
            reused_tokens=self.reused_tokens,
            frames_from_disk=sum(each.hit.from_disk for each in self._loaded if each.hit),
            short_loads=sum(loaded.is_short for loaded in self._loaded),
        )

    def save(self, sequences: torch.Tensor) -> int:
        """Offer what the engine computed to the store; how many blocks it has of it now.

        ``sequences`` is ``[row, column]``, prompts and answers, as ``generate`` returns them.  Of a
        beam search only the prompts are saved.  Nothing is saved where the engine left the memory
        that it was given, or where the weights have changed meanwhile.  Raises ``ArgumentError``
        for sequences of other prompts.
        """
        reason = self._reason_against()
        if reason is not None:
            self._tally.leave(reason)
            return 0
        copies, is_beam = self._call.copies, self._call.is_beam
        table = self._prompts() if is_beam else self._checked(sequences)
        saved = 0
        for line in range(0, len(table), copies if is_beam else 1):
            row, loaded = self._rows[line // copies], self._loaded[line // copies]
            pages = MemoryPages(self._memory, line, first=row.pad)
            tokens = self._computed(table[line], row.pad)
            saved += self._connector.save(tokens, pages, since=loaded)
        self._tally.save(saved)
        return saved

    def release(self) -> None:
        """Let the next batch have the memory; nobody may read the cache any more."""
        self._shelf.give(self._memory)

    def _reason_against(self) -> Reason | None:
        if not self._memory.intact:
            return Reason.LEFT
        return None if self._is_current() else Reason.CHANGED

    def _prompts(self) -> NDArray[np.int64]:
        """The prompts as they lie in memory, ``[row, column]``."""
        return np.repeat(self._call.ids.cpu().numpy(), self._call.copies, axis=0)

    def _checked(self, sequences: torch.Tensor) -> NDArray[np.int64]:
        """Sequences that begin with the prompts."""
        table: NDArray[np.int64] = sequences.cpu().numpy()
        prompts = self._prompts()
        if table.ndim != 2 or not np.array_equal(table[:, : prompts.shape[1]], prompts):
            raise ArgumentError(
                "these sequences do not begin with the prompts that were restored; hand in prompts "
                "and answers in one, row by row, as generate returns them"
            )
        return table

    def _computed(self, line: NDArray[np.int64], pad: int) -> NDArray[np.int64]:
        """The tokens of a sequence that went through all layers, up to the one that ended it."""
        prompt = self._call.ids.shape[1]
        ended = np.flatnonzero(np.isin(line[prompt:], self._call.ends))
        end = prompt + int(ended[0]) + 1 if len(ended) else len(line)
        return line[pad : min(end, self.cache.columns)]
