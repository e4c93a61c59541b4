"""Rows of a left-padded batch: how far all of them can be restored together, and doing it.

A cache has one length for the whole batch, counted in columns, so a batch starts from the longest
column up to which every row is stored: its shortest common slot.  In a row that lies anywhere in a
block; the block is restored up to there.  Positions are counted from a row's first real token, in
the engine as in the keys, so the same text is found whatever its padding.

A window layer needs its window before that slot, which begins in an earlier block than the one
before a whole number of blocks may need; then the length one block shorter is restored as well.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ..kvstore.layout import Layout
from ..kvstore.plan import Plan
from .connector import Connector, Loaded
from .memory import KVMemory
from .pages import MemoryPages


class Row(NamedTuple):
    """One sequence of a batch: ``pad`` columns of padding, then its tokens."""

    tokens: NDArray[np.int64]
    pad: int
    plan: Plan | None

    def tokens_at(self, column: int) -> int:
        """How many of its tokens lie before a column."""
        return max(0, column - self.pad)


class Restored(NamedTuple):
    """How far a batch was restored, and what each of its rows got."""

    columns: int
    rows: list[Loaded]


def rows_of(connector: Connector, ids: torch.Tensor, mask: torch.Tensor | None) -> list[Row]:
    """The rows of ``ids`` ``[row, column]``, each with what is stored of it."""
    table = ids.cpu().numpy()
    pads = [0] * len(table) if mask is None else (mask == 0).sum(dim=1).tolist()
    return [
        Row(tokens[pad:], pad, connector.match(tokens[pad:]))
        for tokens, pad in zip(table, pads, strict=True)
    ]


def common_column(layout: Layout, rows: Sequence[Row]) -> int:
    """The longest column up to which every row can be restored; its last token never is."""
    column = min(row.pad + min(_stored(row), len(row.tokens) - 1) for row in rows)
    while column > 0 and not all(_lengths(layout, row, row.tokens_at(column)) for row in rows):
        column -= 1
    return column


def restore(
    connector: Connector, memory: KVMemory, rows: Sequence[Row], *, copies: int, columns: int
) -> Restored:
    """Load every row up to ``columns``; fewer where a block turned out bad.

    Row i of the batch becomes rows ``i * copies`` and on of the memory.
    """
    loaded = []
    for number, row in enumerate(rows):
        pages = MemoryPages(memory, number * copies, first=row.pad, copies=copies, end=columns)
        loaded.append(
            _load(connector, row, pages, tokens=row.tokens_at(columns), layout=memory.layout)
        )
    columns = _usable(memory.layout, rows, loaded, columns)
    for number, row in enumerate(rows):
        for copy in range(number * copies, (number + 1) * copies):
            memory.clear(copy, min(row.pad, columns))
    return Restored(
        columns,
        [
            got._replace(tokens=row.tokens_at(columns))
            for row, got in zip(rows, loaded, strict=True)
        ],
    )


def _stored(row: Row) -> int:
    return row.plan.tokens if row.plan else 0


def _lengths(layout: Layout, row: Row, tokens: int) -> tuple[int, ...]:
    """Restorable lengths whose blocks together hold what follows ``tokens`` tokens needs.

    ``(0,)`` where nothing is needed, empty where it is not stored.
    """
    if tokens == 0:
        return (0,)
    lengths = row.plan.lengths if row.plan else ()
    upper = next((length for length in lengths if length >= tokens), 0)
    block = layout.block_tokens
    lower = tokens // block * block
    if not upper:
        return ()
    if all(_covers(layout, group, upper, tokens) for group in range(len(layout.groups))):
        return (upper,)
    return (upper, lower) if upper == lower + block and lower in lengths else ()


def _covers(layout: Layout, group: int, length: int, tokens: int) -> bool:
    """Whether the blocks that a restored length has are all that ``tokens`` tokens need."""
    reach = layout.window_blocks(group) * layout.block_tokens
    window = layout.groups[group].window
    return not window or length - reach <= max(0, tokens - window + 1)


def _load(
    connector: Connector, row: Row, pages: MemoryPages, *, tokens: int, layout: Layout
) -> Loaded:
    """Load a row's first ``tokens`` tokens; ``tokens`` of the answer are as many as are usable."""
    if tokens == 0 or row.plan is None:
        return Loaded()
    upper, *lower = _lengths(layout, row, tokens)
    first = connector.load(row.plan, pages, at_most=upper)
    if first.tokens < upper:
        return first._replace(tokens=min(tokens, first.tokens))
    for length in lower:
        if connector.load(row.plan, pages, at_most=length).tokens < length:
            return first._replace(tokens=0)
    return first._replace(tokens=tokens)


def _usable(layout: Layout, rows: Sequence[Row], loaded: Sequence[Loaded], columns: int) -> int:
    """How many columns every row really has.

    What a window layer was given belongs to one length, so a row cannot be cut shorter than that
    after the fact.
    """
    reached = [
        row.pad + got.tokens
        for row, got in zip(rows, loaded, strict=True)
        if row.tokens_at(columns)
    ]
    short = min(reached, default=columns)
    has_windows = any(group.window for group in layout.groups)
    if has_windows and any(
        row.tokens_at(short) not in (0, got.tokens) for row, got in zip(rows, loaded, strict=True)
    ):
        return 0
    return short
