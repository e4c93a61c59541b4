"""Time to first token of a 4k prompt: without the store, with it, and at best.

    python benchmarks/ttft.py [--tokens 4096] [--rounds 7] [--threads 2] [--json]

The demo's model, one prompt of ``--tokens`` tokens that are stored and 64 behind them that are not,
other ones in each round.  Measured up to the moment when ``generate`` hands over the first token:

    cold    the model alone
    floor   the model alone, with the stored part already in a cache of its own: what no store beats
    ram     with the store, from host memory
    disk    with the store, from disk; held against the floor plus the time in which a bare
            O_DIRECT loop reads as many bytes of the same file

There are two prompts, and host memory has room for one of them: the prompt whose turn it is comes
from disk first and from memory then.  Floor and bare loop run in the same round; cold runs a few
times, for it takes long.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.generation.streamers import BaseStreamer

from kvstrata.connectors.models import Loaded, load, smollm2
from kvstrata.connectors.transformers import TransformersConnector, attach
from kvstrata.kvstore.settings import Settings
from kvstrata.kvstore.store import Store
from kvstrata.server.bench_ground import MIB, touched
from kvstrata.server.bench_raw import RawDisk

VERB = "generate"
TAIL = 64  # tokens behind what is stored
COLD_ROUNDS = 3
READ_BYTES = 2 * MIB
MEMORY_MORE, DISK_MORE = 24 * MIB, 512 * MIB
DOCUMENTS = Path(__file__).parents[1] / "server" / "documents"


KV = tuple[torch.Tensor, torch.Tensor]


class Taken(NamedTuple):
    """One round, in seconds; ``read_s`` is the bare loop's, tokens are the store's."""

    floor_s: float
    ram_s: float
    disk_s: float
    read_s: float
    ram_tokens: int
    disk_tokens: int


class FirstToken(BaseStreamer):
    """Notes when the first token comes; ``generate`` hands the prompt over first."""

    def __init__(self) -> None:
        self.came_at = 0.0
        self._calls = 0

    def put(self, value: torch.Tensor) -> None:
        """Called with the prompt, then with each token."""
        self._calls += 1
        if self._calls == 2:
            self.came_at = time.perf_counter()

    def end(self) -> None:
        """Called when the answer is complete."""


class Bench:
    """A model, two prompts, and a store directory."""

    def __init__(self, loaded: Loaded, tokens: int, directory: Path) -> None:
        self.directory = directory
        self.prompts = prompts_of(loaded, tokens)  # [1, token] each
        self.kv_bytes = 0
        self._model = loaded.model
        self._generate: Callable[..., object] = getattr(loaded.model, VERB)  # its own
        self._weights = loaded.directory
        self._kept: list[KV] = []

    def cold(self, number: int) -> float:
        """The model alone."""
        return timed(self._generate, self._tailed(number))

    def keep(self) -> None:
        """Compute the first prompt's KV once, for the floor."""
        cache = DynamicCache(config=self._model.config)
        with torch.no_grad():
            self._model(self.prompts[0], past_key_values=cache, logits_to_keep=1)
        for layer in cache.layers:
            assert isinstance(layer, DynamicLayer)
            assert layer.keys is not None
            assert layer.values is not None
            self._kept.append((layer.keys.clone(), layer.values.clone()))
        self.kv_bytes = sum(keys.nbytes + values.nbytes for keys, values in self._kept)

    def floor(self, number: int) -> float:
        """The model alone, its cache filled beforehand."""
        cache = DynamicCache(config=self._model.config)
        for layer, (keys, values) in enumerate(self._kept):
            cache.update(keys, values, layer)
        return timed(self._generate, self._tailed(2 * number), cache)

    def attached(self) -> TransformersConnector:
        """The model with a store whose memory holds one prompt and the ends of a few."""
        settings = Settings(
            dir=self.directory,
            memory=self.kv_bytes + self.kv_bytes // 4 + MEMORY_MORE,
            disk=3 * self.kv_bytes + DISK_MORE,
            log_level="ERROR",
        )
        return attach(self._model, Store(settings), weights=self._weights)

    def warm(self, connector: TransformersConnector, number: int) -> tuple[float, int]:
        """With the store; how many of the prompt's tokens came from it."""
        before = connector.counts.reused_tokens
        taken = timed(connector.generate, self._tailed(number))
        connector.store.flush()
        return taken, connector.counts.reused_tokens - before

    def _tailed(self, number: int) -> torch.Tensor:
        """One of the prompts with an end that no other number has."""
        generator = torch.Generator().manual_seed(number + TAIL)
        tail = torch.randint(100, 40_000, (1, TAIL), generator=generator)
        return torch.cat([self.prompts[number % 2], tail], dim=1)


def timed(
    generate: Callable[..., object], ids: torch.Tensor, cache: DynamicCache | None = None
) -> float:
    """Seconds to the first token of an answer."""
    watch = FirstToken()
    given = {} if cache is None else {"past_key_values": cache}
    mask = torch.ones_like(ids)
    start = time.perf_counter()
    generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=2,
        do_sample=False,
        streamer=watch,
        **given,
    )
    return watch.came_at - start


def prompts_of(loaded: Loaded, tokens: int) -> list[torch.Tensor]:
    """The demo's documents, over and over, from the beginning and from somewhere else."""
    text = "\n\n".join(path.read_text() for path in sorted(DOCUMENTS.glob("*.txt")))
    ids = loaded.tokenizer(text)["input_ids"]
    ids = ids * (tokens // len(ids) + 2)
    return [torch.tensor([ids[start : start + tokens]]) for start in (0, TAIL)]


def wait_for_digest(connector: TransformersConnector) -> None:
    """Until the weights are read: before that nothing may be shared."""
    while connector.identity.is_private:
        time.sleep(0.05)


def rounds_of(bench: Bench, count: int, tell: Callable[[str], None]) -> list[Taken]:
    """Disk, ram, floor and the bare loop in turns; the first two rounds are not counted."""
    found = []
    with bench.attached() as connector:
        wait_for_digest(connector)
        tell("saving")
        bench.warm(connector, -2)
        bench.warm(connector, -1)
        wait_until_idle()
        for number in range(count + 2):
            tell(f"round {number - 1} of {count}")
            # of four numbers that follow, the first and the third are of the same prompt
            disk_s, disk_tokens = bench.warm(connector, 4 * number + number % 2)
            ram_s, ram_tokens = bench.warm(connector, 4 * number + number % 2 + 2)
            floor_s = bench.floor(number)
            read_s = bare_read(bench.directory / "pages.kvs", bench.kv_bytes)
            found.append(Taken(floor_s, ram_s, disk_s, read_s, ram_tokens, disk_tokens))
        connector.store.close()
    return found[2:]


def wait_until_idle() -> None:
    """Let a store that was just opened touch its memory, which nobody has to wait for."""
    spent = 1.0
    while spent > 0.02:
        spent = time.process_time()
        time.sleep(0.2)
        spent = time.process_time() - spent


def bare_read(path: Path, nbytes: int) -> float:
    """Seconds in which four threads read so many bytes with O_DIRECT."""
    blocks = -(-nbytes // READ_BYTES)
    arrays = list(touched(blocks * READ_BYTES).reshape(blocks, READ_BYTES))
    with RawDisk(path, threads=4) as raw:
        start = time.perf_counter()
        raw.read([n * READ_BYTES for n in range(blocks)], arrays)
        return time.perf_counter() - start


def as_object(
    bench: Bench, cold: Sequence[float], rounds: Sequence[Taken], threads: int
) -> dict[str, object]:
    """Medians in seconds and the ratios that the table shows."""
    stored = bench.prompts[0].shape[1]
    reused = median(min(r.ram_tokens, r.disk_tokens) for r in rounds) / stored
    return {
        "prompt_tokens": stored + TAIL,
        "kv_bytes": bench.kv_bytes,
        "threads": threads,
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "cold_s": median(cold),
        "floor_s": median(r.floor_s for r in rounds),
        "ram_s": median(r.ram_s for r in rounds),
        "disk_s": median(r.disk_s for r in rounds),
        "read_s": median(r.read_s for r in rounds),
        "ram_overhead": median(r.ram_s / r.floor_s - 1 for r in rounds),
        "disk_overhead": median(r.disk_s / (r.floor_s + r.read_s) - 1 for r in rounds),
        "ram_speedup": median(median(cold) / r.ram_s for r in rounds),
        "disk_speedup": median(median(cold) / r.disk_s for r in rounds),
        "reused": reused,
        "rounds": [r._asdict() for r in rounds],
    }


def print_table(found: dict[str, object]) -> None:
    """The figures and their aims."""
    table = Table("", "measured", "aim", title=f"{found['prompt_tokens']} tokens")
    for name in ("cold_s", "floor_s", "ram_s", "disk_s", "read_s"):
        table.add_row(name.removesuffix("_s"), f"{found[name]:.3f} s", "")
    table.add_row("ram over floor", f"{found['ram_overhead']:.1%}", "at most 15 %")
    table.add_row("disk over floor and reading", f"{found['disk_overhead']:.1%}", "at most 15 %")
    table.add_row("ram, speed-up over cold", f"{found['ram_speedup']:.1f}", "at least 22")
    table.add_row("disk, speed-up over cold", f"{found['disk_speedup']:.1f}", "at least 16")
    table.add_row("reused / shareable tokens", f"{found['reused']:.3f}", "at least 0.97")
    Console().print(table)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--dir", type=Path, help="keep the store under this directory")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    loaded = load(smollm2())
    with (
        tempfile.TemporaryDirectory(prefix="kvstrata-ttft-", dir=asked.dir) as scratch,
        Console(stderr=True).status("") as status,
    ):
        bench = Bench(loaded, asked.tokens, Path(scratch))
        status.update("cold")
        cold = [bench.cold(-2 - number) for number in range(COLD_ROUNDS)]
        bench.keep()
        rounds = rounds_of(bench, asked.rounds, status.update)
    found = as_object(bench, cold, rounds, asked.threads)
    if asked.json:
        print(json.dumps(found))
    else:
        print_table(found)


if __name__ == "__main__":
    main()
