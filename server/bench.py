"""``kvstrata bench store``: what the store must reach, measured side by side with what it is held
against.

One row of figures for each name in ``ROWS``.  Everything is written into a new directory, which is
removed afterwards; the user's own store is not touched.
"""

import json
import os
import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ..kvstore.errors import ArgumentError
from ..kvstore.machine import physical_memory
from ..kvstore.settings import default_dir
from .bench_burst import burst
from .bench_codec import codec
from .bench_disk import disk_get, disk_put
from .bench_figures import Figure
from .bench_ground import FULL, QUICK, Scale
from .bench_index import index
from .bench_match import match
from .bench_memory import bookkeeping, ram
from .bench_slab import slab

Row = Callable[[Scale, Path], list[Figure]]

ROWS: Mapping[str, Row] = {
    "ram": ram,
    "books": bookkeeping,
    "disk-get": disk_get,
    "disk-put": disk_put,
    "match": match,
    "index": index,
    "slab": slab,
    "codec": codec,
    "burst": burst,
}

bench_app = typer.Typer(
    name="bench", help="Measure the store on this machine.", no_args_is_help=True
)


@bench_app.callback()
def bench() -> None:
    """Measure the store on this machine."""


@bench_app.command(epilog="Example: kvstrata bench store --quick --only ram,match")
def store(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    directory: Annotated[
        Path | None,
        typer.Option("--dir", help="Measure the disk under this directory.", show_default=False),
    ] = None,
    is_quick: Annotated[
        bool, typer.Option("--quick", help="Do less: about two minutes, figures that sway.")
    ] = False,
    only: Annotated[str, typer.Option(help="Rows to measure: " + ", ".join(ROWS))] = "",
) -> None:
    """Hold the store against copying, bare I/O and bare hashing: ratios, and their aims."""
    names = only.split(",") if only else list(ROWS)
    above = directory or default_dir(os.environ).parent
    above.mkdir(parents=True, exist_ok=True)
    load = os.getloadavg()[0]
    figures = measured(names, QUICK if is_quick else FULL, above)
    if as_json:
        typer.echo(json.dumps(_as_object(figures, is_quick=is_quick, load=load)))
    else:
        _print(figures)


def measured(names: Sequence[str], scale: Scale, above: Path) -> list[Figure]:
    """The figures of these rows, in a new directory below ``above``.

    Raises ``ArgumentError`` for a row that there is none of.
    """
    unknown = [name for name in names if name not in ROWS]
    if unknown:
        raise ArgumentError(f"there is no row {unknown[0]!r}; the rows are {', '.join(ROWS)}")
    figures = []
    with Console(stderr=True).status("") as status:
        for number, name in enumerate(names, start=1):
            status.update(f"{name} ({number} of {len(names)})")
            with tempfile.TemporaryDirectory(prefix="kvstrata-bench-", dir=above) as scratch:
                figures += ROWS[name](scale, Path(scratch))
    return figures


def _print(figures: Sequence[Figure]) -> None:
    table = Table("", "measured", "quartiles", "aim", "note", box=SIMPLE_HEAD)
    for figure in figures:
        low, high = (_said(value) for value in figure.measured[1:])
        table.add_row(
            figure.name,
            f"[{'green' if figure.is_reached else 'red'}]{_said(figure.measured.median)}[/]",
            "" if low == high else f"{low} {high}",
            f"{'<=' if figure.at_most else '>='} {_said(figure.aim)} {figure.unit}",
            figure.note,
        )
    Console().print(table)


def _said(value: float) -> str:
    return f"{value:.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def _as_object(figures: Sequence[Figure], *, is_quick: bool, load: float) -> dict[str, object]:
    return {
        "machine": {
            "cpu": _cpu(),
            "cores": os.cpu_count(),
            "memory_bytes": physical_memory(),
            "kernel": platform.release(),
            "python": platform.python_version(),
            "numpy": np.__version__,
            "load": {"before": load, "after": os.getloadavg()[0]},
        },
        "quick": is_quick,
        "figures": [
            {
                **asdict(figure),
                "measured": figure.measured.median,
                "quartiles": figure.measured[1:],
                "reached": figure.is_reached,
            }
            for figure in figures
        ],
    }


def _cpu() -> str:
    """The processor's name, where the kernel says it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor())
