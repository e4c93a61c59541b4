"""Disk: how close reading and writing blocks come to a bare loop of the same I/O.

What is read was not in memory: prompts are loaded in turn, and host memory holds only the last two.
All of it counts, match, read, headers and checksums verified, blocks handed over, but for the copy
into the engine, which the rows of RAM measure; the notes say what becomes of the ratio with it.
What is written goes into a slab that was written before, and counts when it is synced.
The bare loop uses the very file and the very memory of the store: two files of one disk differ by
up to 2, and so does memory, by how scattered its pages are.  Nobody looks at what it writes over.
"""

import gc
import mmap
import time
from pathlib import Path

import numpy as np

from ..kvstore.index import DISK
from ..kvstore.keys import Tokens
from ..kvstore.layout import Layout
from ..kvstore.pages import ArrayPages, Bytes, Pages
from ..kvstore.settings import Settings
from ..kvstore.space import Space
from ..kvstore.store import Store
from .bench_figures import Figure, Pairs, Trial, paired, spread
from .bench_ground import (
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
from .bench_raw import RawDisk

_SAVED_AT_ONCE = 4
_RESIDENT = 2  # prompts that host memory holds
_PAGES_FILE = "pages.kvs"


class _Prompts:
    """Prompts of equal length on one store's disk, and memory for one of them outside of it."""

    def __init__(self, layout: Layout, scale: Scale) -> None:
        self.layout = layout
        self.block = layout.frame_bytes(0, layout.block_tokens)
        self.blocks = max(1, scale.span // 2 // self.block)
        self.bytes = self.blocks * self.block
        self.count = max(_RESIDENT + 2, scale.disk // self.bytes)
        self.tokens = self.blocks * layout.block_tokens
        self.array = touched(self.bytes).reshape(self.blocks, self.block)
        self.pages = ArrayPages(layout, {PART: self.array})
        self._saved = 0
        self._loaded = 0

    def settings(self, directory: Path, writers: int) -> Settings:
        """A store whose memory holds two of them and whose disk holds all."""
        return settings_of(
            directory, _RESIDENT * self.bytes, disk=self.count * self.bytes, writers=writers
        )

    def offsets(self, number: int) -> list[int]:
        """Where a bare loop moves as many blocks."""
        first = number % self.count * self.bytes
        return list(range(first, first + self.bytes, self.block))

    def lent(self, store: Store) -> list[Bytes]:
        """The end of a store's memory, as blocks."""
        memory: Bytes = np.frombuffer(mmap.mmap(store.host_fd, 0), np.uint8)
        return list(memory[-self.bytes :].reshape(self.blocks, self.block))

    def oldest(self) -> Tokens:
        """The prompt that was not loaded for longest."""
        number, self._loaded = self._loaded, self._loaded + 1
        return prompt_of(number % self.count, self.tokens)

    def fill(self, settings: Settings) -> None:
        """Put them all on the disk of a new store, whose pages are written once by that."""
        with Store(settings) as store:
            space = store.space(identity_of(self.layout))
            for _ in range(self.count):
                self.save(space, self.pages)
                store.flush()
        gc.collect()  # its memory goes now, not in the middle of a round

    def save(self, space: Space, pages: Pages) -> None:
        """Save the next one, a few blocks at a time, as an engine's prefill does."""
        tokens = prompt_of(self._saved, self.tokens)
        self._saved += 1
        step = _SAVED_AT_ONCE * self.layout.block_tokens
        for start in range(0, self.tokens, step):
            space.save(tokens[: start + step], pages, start=start)


def disk_get(scale: Scale, directory: Path) -> list[Figure]:
    """Cold loads against bare reads of the same slab file."""
    figures = []
    for nbytes in scale.blocks:
        prompts = _Prompts(layout_of(nbytes), scale)
        settings = prompts.settings(directory / f"get-{nbytes}", writers=1)
        prompts.fill(settings)
        with Store(settings) as store:
            with RawDisk(settings.dir / _PAGES_FILE, threads=settings.readers) as raw:
                pairs = _reads(store, raw, prompts, NoPages(), rounds=scale.rounds)
                whole = _reads(store, raw, prompts, prompts.pages, rounds=scale.rounds)
            _check_cold(store, prompts, rounds=2 * scale.rounds + 2)
        name = f"disk get, {size_of(nbytes)}, cold / bare reads"
        note = f"{settings.readers} deep; {_told(pairs, whole, prompts)}"
        figures.append(Figure(name, pairs.speed, 0.95, note=note))
    return figures


def disk_put(scale: Scale, directory: Path) -> list[Figure]:
    """Saves, until they are synced, against bare writes."""
    figures = []
    for nbytes in scale.blocks:
        for writers in (1, 2):
            prompts = _Prompts(layout_of(nbytes), scale)
            settings = prompts.settings(directory / f"put-{nbytes}-{writers}", writers)
            prompts.fill(settings)
            with (
                Store(settings) as store,
                RawDisk(settings.dir / _PAGES_FILE, threads=writers) as raw,
            ):
                pairs = _writes(store, raw, prompts, NoPages(), rounds=scale.rounds)
                whole = _writes(store, raw, prompts, prompts.pages, rounds=scale.rounds)
            name = f"disk put, {size_of(nbytes)}, {writers} deep / bare writes"
            figures.append(Figure(name, pairs.speed, 0.90, note=_told(pairs, whole, prompts)))
    return figures


def _reads(store: Store, raw: RawDisk, prompts: _Prompts, pages: Pages, *, rounds: int) -> Pairs:
    space, memory = store.space(identity_of(prompts.layout)), prompts.lent(store)

    def ours(_round: int) -> Trial:
        tokens = prompts.oldest()

        def load() -> None:
            with space.hold(space.match(tokens)) as hit:
                if hit.load(pages) != prompts.tokens:
                    raise AssertionError("a prompt that was flushed is not restored")

        return load

    def theirs(number: int) -> Trial:
        offsets = prompts.offsets(number + prompts.count // 2)
        return lambda: raw.read(offsets, memory)

    return paired(ours, theirs, rounds=rounds, clock=time.perf_counter)


def _writes(store: Store, raw: RawDisk, prompts: _Prompts, pages: Pages, *, rounds: int) -> Pairs:
    space, memory = store.space(identity_of(prompts.layout)), prompts.lent(store)

    def ours(number: int) -> Trial:
        def put() -> None:
            prompts.save(space, pages)
            if not store.flush():
                raise AssertionError("what was saved is not all on disk")

        return put

    def theirs(number: int) -> Trial:
        offsets = prompts.offsets(number)
        return lambda: raw.write(offsets, memory)

    return paired(ours, theirs, rounds=rounds, clock=time.perf_counter)


def _check_cold(store: Store, prompts: _Prompts, *, rounds: int) -> None:
    loaded = store.counters.loaded[DISK]
    if loaded != rounds * prompts.blocks:
        raise AssertionError(f"{loaded} blocks were read from disk, not {rounds * prompts.blocks}")


def _told(pairs: Pairs, whole: Pairs, prompts: _Prompts) -> str:
    bare = spread([prompts.bytes / s / 1e9 for s in pairs.theirs]).median
    return f"bare: {bare:.2f} GB/s; with the copy: {whole.speed.median:.2f}"
