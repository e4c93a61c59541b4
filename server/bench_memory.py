"""Host memory: how close saving and loading come to copying, and what the books cost beside it.

Batches come from memory that was last touched ``span`` bytes ago and go to such memory, so no
cache helps either side.  The store is full from the start: every save has to evict.
"""

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..kvstore.layout import Layout, Part
from ..kvstore.pages import ArrayPages, Bytes, Pages
from ..kvstore.space import Space
from ..kvstore.store import Store
from .bench_figures import Figure, Pairs, Prepare, Spread, Trial, paired, spread
from .bench_ground import (
    MIB,
    PART,
    NoPages,
    Scale,
    identity_of,
    layout_of,
    prompt_of,
    settings_of,
    size_of,
    touched,
)

_BOOK_BLOCK = 2 * MIB
_BOOK_FRAMES = 256 * MIB  # bytes of the store whose books are measured


class _Walk:
    """Batches of blocks that walk over ``span`` bytes and come back to the first one."""

    def __init__(self, layout: Layout, scale: Scale) -> None:
        nbytes = layout.frame_bytes(0, layout.block_tokens)
        self.layout = layout
        self.tokens = scale.batch * layout.block_tokens
        self.count = max(1, scale.span // (scale.batch * nbytes))
        shape = self.count, scale.batch, nbytes
        self.source = touched(self.count * scale.batch * nbytes).reshape(shape)
        self.target = touched(self.source.size).reshape(shape)
        self.bytes = self.source.size

    def pages(self, batches: Bytes, number: int) -> Pages:
        """One batch as an engine's pages."""
        arrays: Mapping[Part, Bytes] = {PART: batches[number % self.count]}
        return ArrayPages(self.layout, arrays)

    def copy(self, number: int) -> Trial:
        """Copy one batch, block by block; neither side of it was touched lately."""
        sources = self.source[(number + self.count // 2) % self.count]
        targets = self.target[number % self.count]

        def trial() -> None:
            for target, source in zip(targets, sources, strict=True):
                np.copyto(target, source)

        return trial


class _Traffic:
    """Saves one new prompt a round and loads the one that was saved ``lag`` rounds ago."""

    def __init__(self, space: Space, walk: _Walk, *, lag: int) -> None:
        self._space = space
        self._walk = walk
        self._lag = lag
        self._saved = 0

    def save(self, _round: int) -> Trial:
        """A prompt that nobody saved before, out of the walk's source."""
        number, self._saved = self._saved, self._saved + 1
        tokens = prompt_of(number, self._walk.tokens)
        pages = self._walk.pages(self._walk.source, number)
        return lambda: self._space.save(tokens, pages)

    def load(self, _round: int) -> Trial:
        """A prompt from the store into the walk's target, and room for the next one."""
        self.save(0)()
        number = self._saved - 1 - self._lag
        tokens = prompt_of(number, self._walk.tokens)
        pages = self._walk.pages(self._walk.target, number)

        def trial() -> None:
            with self._space.hold(self._space.match(tokens)) as hit:
                if hit.load(pages) != self._walk.tokens:
                    raise AssertionError("a block that was saved lately is gone")

        return trial


def ram(scale: Scale, directory: Path) -> list[Figure]:
    """RAM put and get against ``np.copyto`` of the same bytes."""
    figures = []
    for nbytes in scale.blocks:
        walk = _Walk(layout_of(nbytes), scale)
        with Store(settings_of(directory / f"ram-{nbytes}", 2 * walk.bytes)) as store:
            traffic = _Traffic(
                store.space(identity_of(walk.layout)), walk, lag=max(0, walk.count - 1)
            )
            for _ in range(2 * walk.count + 1):
                traffic.save(0)()
            put = _both(traffic.save, walk, scale)
            get = _both(traffic.load, walk, scale)
        size = size_of(nbytes)
        figures += [
            Figure(f"RAM put, {size} / copy", put.speed, 0.90, note=_rate(put, walk)),
            Figure(f"RAM get, {size} / copy", get.speed, 0.95, note=_rate(get, walk)),
        ]
    return figures


def bookkeeping(scale: Scale, directory: Path) -> list[Figure]:
    """Microseconds of the calling thread for each block, with pages that copy nothing."""
    layout = layout_of(_BOOK_BLOCK)
    rounds = max(scale.rounds, 3 * _BOOK_FRAMES // _BOOK_BLOCK // scale.batch)
    tokens = [prompt_of(n, scale.batch * layout.block_tokens) for n in range(rounds)]
    saves, matches, loads = [], [], []
    with Store(settings_of(directory / "books", _BOOK_FRAMES)) as store:
        space, pages = store.space(identity_of(layout)), NoPages()
        for prompt in tokens:
            start = time.thread_time()
            space.save(prompt, pages)
            saved = time.thread_time()
            plan = space.match(prompt)
            matched = time.thread_time()
            with space.hold(plan) as hit:
                hit.load(pages)
            loads.append(time.thread_time() - matched)
            matches.append(matched - saved)
            saves.append(saved - start)
    full = rounds // 3  # from here on every save evicts
    book = f"batches of {scale.batch} blocks, copying left out"
    match = f"hold and load; match takes {_per_block(matches[full:], scale).median:.1f} more"
    save_us, load_us = _per_block(saves[full:], scale), _per_block(loads[full:], scale)
    return [
        Figure("books of a block saved", save_us, 5.0, "us", at_most=True, note=book),
        Figure("books of a block loaded", load_us, 5.0, "us", at_most=True, note=match),
    ]


def _both(ours: Prepare, walk: _Walk, scale: Scale) -> Pairs:
    return paired(ours, walk.copy, rounds=scale.rounds, clock=time.thread_time)


def _rate(pairs: Pairs, walk: _Walk) -> str:
    nbytes = walk.bytes / walk.count
    copy = spread([nbytes / s / 1e9 for s in pairs.theirs]).median
    return f"the copy: {copy:.1f} GB/s"


def _per_block(taken: list[float], scale: Scale) -> Spread:
    return spread([s / scale.batch * 1e6 for s in taken])
