"""Our side of ``benchmarks/against_lmcache.py``, measured as LMCache's is.

    python benchmarks/against_lmcache_ours.py ram|disk --dir DIR --chunks 16 --repeat 3

A put ends when the chunks are in host memory (``ram``) or written to the slab file (``disk``; like
the other side's, not synced).  A get ends when the bytes are in the caller's arrays; from disk it
has verified headers, keys and checksums.  Prints one JSON object: seconds of each put and get.
"""

import argparse
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from kvstrata.kvstore.index import DISK
from kvstrata.kvstore.pages import ArrayPages
from kvstrata.kvstore.settings import Settings
from kvstrata.kvstore.store import Store
from kvstrata.server.bench_ground import (
    MIB,
    PART,
    identity_of,
    layout_of,
    prompt_of,
    settings_of,
    touched,
)

CHUNK_BYTES = 32 * MIB
_NAP_S = 0.0005
_PATIENCE_S = 120.0


class Side:
    """One store with the caller's arrays beside it."""

    def __init__(self, settings: Settings, chunks: int) -> None:
        self.layout = layout_of(CHUNK_BYTES)
        self.store = Store(settings)
        self.space = self.store.space(identity_of(self.layout))
        self.chunks = chunks
        self.source = touched(chunks * CHUNK_BYTES).reshape(chunks, CHUNK_BYTES)
        self.target = touched(chunks * CHUNK_BYTES, seed=1).reshape(chunks, CHUNK_BYTES)

    def put(self, number: int) -> None:
        """Save every chunk; returns when all of them are where they belong."""
        tokens = prompt_of(number, self.chunks * self.layout.block_tokens)
        written = self.store.counters.demoted + self.chunks
        if self.space.save(tokens, ArrayPages(self.layout, {PART: self.source})) != self.chunks:
            raise AssertionError("a chunk was not taken")
        end = time.perf_counter() + _PATIENCE_S
        while self.store.settings.disk and self.store.counters.demoted < written:
            if time.perf_counter() > end:
                raise AssertionError("chunks did not reach the disk")
            time.sleep(_NAP_S)

    def get(self, number: int) -> None:
        """Copy every chunk out."""
        tokens = prompt_of(number, self.chunks * self.layout.block_tokens)
        with self.space.hold(self.space.match(tokens)) as hit:
            if hit.load(ArrayPages(self.layout, {PART: self.target})) != len(tokens):
                raise AssertionError("a chunk that was stored is not restored")

    def check(self, from_disk: int) -> None:
        """What came out is what went in, and it came from where it was to come from."""
        if not np.array_equal(self.source, self.target):
            raise AssertionError("other bytes came back than were stored")
        if self.store.counters.loaded[DISK] != from_disk:
            raise AssertionError("chunks came from memory where they were to come from disk")


def ram(directory: Path, chunks: int, repeat: int) -> dict[str, list[float]]:
    """Put and get in host memory, which holds two rounds: each later put evicts."""
    side = Side(settings_of(directory, 2 * chunks * CHUNK_BYTES), chunks)
    puts, gets = [], []
    for number in range(repeat + 3):
        puts.append(_timed(side.put, number))
        gets.append(_timed(side.get, number))
        side.check(from_disk=0)
    side.store.close()
    return {"put_s": puts[3:], "get_s": gets[3:]}


def disk(directory: Path, chunks: int, repeat: int) -> dict[str, list[float]]:
    """Put and cold get; the slab was written before, memory holds little more than one round."""
    count, nbytes = repeat + 1, chunks * CHUNK_BYTES
    settings = settings_of(directory, nbytes + nbytes // 8, disk=count * nbytes)
    side = Side(settings, chunks)
    for number in range(count):
        side.put(number)
    side.store.close()
    side = Side(settings, chunks)
    puts = [_timed(side.put, number) for number in range(count, 2 * count)]
    gets = []
    for number in range(count, 2 * count):
        gets.append(_timed(side.get, number))
        side.check(from_disk=len(gets) * chunks)
    side.store.close()
    return {"put_s": puts[1:], "get_s": gets[1:]}


def _timed(call: Callable[[int], None], number: int) -> float:
    start = time.perf_counter()
    call(number)
    return time.perf_counter() - start


CASES = {"ram": ram, "disk": disk}


def main() -> None:
    """Measure one case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--chunks", type=int, default=16)
    parser.add_argument("--repeat", type=int, default=3)
    asked = parser.parse_args()
    directory = asked.dir / f"ours-{asked.case}"
    print(json.dumps(CASES[asked.case](directory, asked.chunks, asked.repeat)), flush=True)
    shutil.rmtree(directory)


if __name__ == "__main__":
    main()
