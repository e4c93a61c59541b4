"""kvstrata against LMCache 0.5.6: the same bytes, in memory and on disk.

    python3 -m venv LMC && LMC/bin/pip install torch==2.13.0
    LMC/bin/pip install --no-deps lmcache==0.5.6
    LMC/bin/pip install 'numpy<=2.2.6' numba sortedcontainers aiofile aiofiles blake3 aiohttp \
        cryptography fastapi httpx msgspec opentelemetry-api opentelemetry-sdk \
        opentelemetry-exporter-otlp opentelemetry-exporter-prometheus prometheus_client psutil \
        py-cpuinfo pyyaml pyzmq grpcio 'protobuf>=6.31.1,<7' redis safetensors uvicorn httptools \
        cachetools nvtx transformers
    python benchmarks/against_lmcache.py --venv LMC [--rounds 5] [--json]

(LMC is a directory outside of this repository; without ``--no-deps`` LMCache brings CUDA along.)

A round runs every case in a fresh process, ours and theirs in turns; a figure is the median over
the rounds of the ratio within one round, ours to theirs.  16 chunks of 32 MiB, a Llama-3-8B prompt
of 4,096 tokens, go in from contiguous memory that is warm, and out into such memory.  On disk ours
is held against the best of three of LMCache's adapters in the same round, and verifies checksums,
which none of them has.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
CHUNK_BYTES = 32 << 20
ADAPTERS = ("fs", "fs-native", "fs-direct")
OURS = ("ram", "disk")

Round = Mapping[str, Mapping[str, float]]
"""By case ("ours ram", "lmcache fs"): "put" and "get" in GB/s."""


class Aim(NamedTuple):
    """A line of the table: our case, the verb, the cases it is held against, what it should be."""

    name: str
    case: str
    verb: str
    against: Sequence[str]
    least: float


_DISKS = [f"lmcache {adapter}" for adapter in ADAPTERS]
AIMS = (
    Aim("RAM put", "ours ram", "put", ["lmcache ram"], 0.95),
    Aim("RAM get", "ours ram", "get", ["lmcache ram"], 0.95),
    Aim("disk put", "ours disk", "put", _DISKS, 1.4),
    Aim("disk get, cold", "ours disk", "get", _DISKS, 0.95),
)


def run(command: Sequence[str | Path], *, chunks: int) -> dict[str, float]:
    """One case in a process of its own: GB/s of its median put and get."""
    done = subprocess.run(
        [*map(str, command), "--chunks", str(chunks)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{done.stderr[-2000:]}")
    taken = json.loads(lines[-1])
    return {
        verb: chunks * CHUNK_BYTES / median(taken[f"{verb}_s"]) / 1e9 for verb in ("put", "get")
    }


def one_round(number: int, asked: argparse.Namespace) -> Round:
    """Every case once, in another order each round."""
    theirs = asked.venv / "bin" / "python"
    commands: dict[str, list[str | Path]] = {
        f"lmcache {case}": [theirs, HERE / "against_lmcache_theirs.py", case]
        for case in ("ram", *ADAPTERS)
    } | {f"ours {case}": [sys.executable, HERE / "against_lmcache_ours.py", case] for case in OURS}
    names = list(commands)
    names = names[number % len(names) :] + names[: number % len(names)]
    found = {}
    for name in names:
        with tempfile.TemporaryDirectory(prefix="kvstrata-lmcache-", dir=asked.dir) as scratch:
            found[name] = run([*commands[name], "--dir", scratch], chunks=asked.chunks)
    return found


def ratio(aim: Aim, each: Round) -> float:
    """Ours to the best of theirs, in one round."""
    return each[aim.case][aim.verb] / max(each[other][aim.verb] for other in aim.against)


def as_object(rounds: Sequence[Round], chunks: int) -> dict[str, object]:
    """All that was measured."""
    return {
        "chunks": chunks,
        "chunk_bytes": CHUNK_BYTES,
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "ratios": [
            {
                "name": aim.name,
                "measured": median(ratio(aim, each) for each in rounds),
                "rounds": [ratio(aim, each) for each in rounds],
                "aim": aim.least,
            }
            for aim in AIMS
        ],
        "gb_s": [dict(each) for each in rounds],
    }


def print_tables(rounds: Sequence[Round]) -> None:
    """Ratios, and the rates that they come from."""
    ratios = Table("", "ours / LMCache's best", "rounds", "at least", title="against LMCache 0.5.6")
    for aim in AIMS:
        found = sorted(ratio(aim, each) for each in rounds)
        span = f"{found[0]:.2f}-{found[-1]:.2f}"
        colour = "green" if median(found) >= aim.least else "red"
        ratios.add_row(aim.name, f"[{colour}]{median(found):.2f}[/]", span, f"{aim.least}")
    rates = Table("case", "put, GB/s", "get, GB/s", title="medians of the rounds")
    for name in rounds[0]:
        both = [median(each[name][verb] for each in rounds) for verb in ("put", "get")]
        rates.add_row(name, *(f"{rate:.2f}" for rate in both))
    console = Console()
    console.print(ratios)
    console.print(rates)


def main() -> None:
    """Run the rounds and print what came of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--venv", type=Path, required=True, help="where LMCache is installed")
    parser.add_argument("--dir", type=Path, help="measure the disk under this directory")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--chunks", type=int, default=16)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    rounds = []
    with Console(stderr=True).status("") as status:
        for number in range(asked.rounds):
            status.update(f"round {number + 1} of {asked.rounds}")
            rounds.append(one_round(number, asked))
    if asked.json:
        print(json.dumps(as_object(rounds, asked.chunks)))
    else:
        print_tables(rounds)


if __name__ == "__main__":
    main()
