"""Bursts: what a store takes when more comes than its memory holds.

A burst of 2.5 times the RAM tier, offered at half of what the disk takes: nothing may be refused or
lost, and no save may take noticeably longer than copying its block.  The same at full speed: losses
are allowed, waiting is not, and every loss is counted.  And a prompt one block longer than memory:
all but that block must come back.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..kvstore.index import HOST
from ..kvstore.layout import Layout
from ..kvstore.pages import ArrayPages
from ..kvstore.settings import Settings
from ..kvstore.space import Space
from ..kvstore.store import Store
from .bench_figures import Figure, exactly, seconds
from .bench_ground import (
    MIB,
    PART,
    Scale,
    identity_of,
    layout_of,
    prompt_of,
    settings_of,
    touched,
)
from .bench_raw import RawDisk

_BLOCK = 2 * MIB
_SOURCES = 64  # blocks that are offered in turn
_TIMES_RAM = 2.5
_RAW_BLOCKS = 128
_CHUNKS, _ROOM = 11, 10


class _Burst(NamedTuple):
    """Blocks offered, found afterwards and counted as lost; 99th percentiles in ms."""

    offered: int
    found: int
    counted: int
    save_ms: float
    copy_ms: float


class _Offer:
    """Blocks, each a prompt of its own, and memory to copy them to as a control."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.source = touched(_SOURCES * _BLOCK).reshape(_SOURCES, _BLOCK)
        self.target = touched(_SOURCES * _BLOCK).reshape(_SOURCES, _BLOCK)
        self._next = 0

    def save(self, space: Space) -> Callable[[], object]:
        """A block that nobody saved before."""
        number, self._next = self._next, self._next + 1
        tokens = prompt_of(number, self.layout.block_tokens)
        pages = ArrayPages(self.layout, {PART: self.source[number % _SOURCES :][:1]})
        return lambda: space.save(tokens, pages)

    def copy(self, number: int) -> Callable[[], object]:
        """As many bytes, copied by hand; nobody touched them for half a turn."""
        source, target = (
            self.source[(number + _SOURCES // 2) % _SOURCES],
            self.target[number % _SOURCES],
        )
        return lambda: np.copyto(target, source)

    def found(self, space: Space, count: int) -> int:
        """How many of the last ``count`` blocks are stored."""
        numbers = range(self._next - count, self._next)
        step = self.layout.block_tokens
        return sum(space.match(prompt_of(n, step)).tokens == step for n in numbers)


def burst(scale: Scale, directory: Path) -> list[Figure]:
    """Losses and waits of bursts, and a prompt that memory does not hold."""
    rate = _write_rate(directory)
    layout = layout_of(_BLOCK)
    settings = settings_of(directory / "burst", scale.burst, disk=4 * scale.burst)
    offered = int(_TIMES_RAM * scale.burst) // _BLOCK
    with Store(settings) as store:  # every page of the slab is written once
        _run(store, _Offer(layout), 2 * offered, pause_s=2 * _BLOCK / rate)
    with Store(replace(settings)) as store:
        offer = _Offer(layout)
        paced = _run(store, offer, offered, pause_s=2 * _BLOCK / rate)
        full = _run(store, offer, offered, pause_s=0.0)
    half = f"{offered} blocks of 2 MiB at {rate / 2e9:.2f} GB/s into {scale.burst // MIB} MiB"
    fast = f"{full.offered - full.found} of {full.offered} blocks lost"
    return [
        _lost("burst at half the disk's rate, lost", paced.offered - paced.found, half),
        _late("burst at half rate, p99 of save - copy", paced),
        _lost(
            "burst at full speed, lost uncounted", full.offered - full.found - full.counted, fast
        ),
        _late("burst at full speed, p99 of save - copy", full),
        _short(directory / "short"),
    ]


def _lost(name: str, blocks: int, note: str) -> Figure:
    return Figure(name, exactly(max(0, blocks)), 0, "blocks", at_most=True, note=note)


def _late(name: str, run: _Burst) -> Figure:
    note = f"p99 of save {run.save_ms:.2f} ms, of its copy {run.copy_ms:.2f} ms"
    return Figure(name, exactly(run.save_ms - run.copy_ms), 1.0, "ms", at_most=True, note=note)


def _run(store: Store, offer: _Offer, count: int, *, pause_s: float) -> _Burst:
    """Offer so many blocks, one each ``pause_s``, however long the ones before took.

    The copies that saves are held against run in turns with them, or before where nothing pauses.
    """
    space = store.space(identity_of(offer.layout))
    before = store.counters.dropped_dirty + store.counters.refused
    copies = [] if pause_s else [seconds(offer.copy(number)) for number in range(count)]
    saves = []
    start = time.perf_counter()
    for number in range(count):
        if pause_s:
            time.sleep(max(0.0, start + number * pause_s - time.perf_counter()))
            copies.append(seconds(offer.copy(number)))
        saves.append(seconds(offer.save(space)))
    store.flush()
    counted = store.counters.dropped_dirty + store.counters.refused - before
    late = (float(np.percentile(times, 99)) * 1e3 for times in (saves, copies))
    return _Burst(count, offer.found(space, count), counted, *late)


def _write_rate(directory: Path) -> float:
    """Bytes a second that one bare thread writes into a formatted file."""
    source = touched(_SOURCES * _BLOCK).reshape(_SOURCES, _BLOCK)
    offsets = [n * _BLOCK for n in range(_RAW_BLOCKS)]
    with RawDisk(directory / "raw", threads=1) as raw:
        raw.format(_RAW_BLOCKS * _BLOCK, source.reshape(-1))
        blocks = [source[n % _SOURCES] for n in range(_RAW_BLOCKS)]
        taken = [seconds(lambda: raw.write(offsets, blocks)) for _ in range(5)]
    return _RAW_BLOCKS * _BLOCK / float(np.median(taken))


def _short(directory: Path) -> Figure:
    """Restore a prompt of 11 blocks into memory for 10."""
    layout = layout_of(_BLOCK)
    settings = settings_of(directory, 2 * _CHUNKS * _BLOCK, disk=4 * _CHUNKS * _BLOCK)
    tokens = prompt_of(0, _CHUNKS * layout.block_tokens)
    pages = ArrayPages(layout, {PART: touched(_CHUNKS * _BLOCK).reshape(_CHUNKS, _BLOCK)})
    with Store(settings) as store:
        store.space(identity_of(layout)).save(tokens, pages)
        store.flush()
    with Store(_with_room(settings)) as store:
        space = store.space(identity_of(layout))
        with space.hold(space.match(tokens)) as hit:
            restored = hit.load(pages) // layout.block_tokens
    name = f"{_CHUNKS} blocks on disk, room for {_ROOM}: restored"
    return Figure(name, exactly(restored), _ROOM, "blocks")


def _with_room(settings: Settings) -> Settings:
    """The settings with as much memory as makes a slab for ten blocks and a bit more."""
    while True:
        with Store(settings) as store:
            capacity = store.stats().tiers[HOST].capacity_bytes
        if capacity // _BLOCK == _ROOM:
            return settings
        missing = int((_ROOM + 0.5) * _BLOCK) - capacity
        settings = replace(settings, memory=settings.memory + missing)
