"""How the demo looks: what it does while it works, on standard error, and a table at the end."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.progress import TimeElapsedColumn as Elapsed
from rich.table import Table

from .demo_runs import Run, Summary

_PHASES = {
    "documents": "questions on documents",
    "conversation": "a conversation",
    "new_process": "in a new process",
    "after_kill": "after a kill -9",
}
_NUMBERS = ("tokens", "reused", "computed", "from", "without", "with", "faster")


class Show:
    """Says what is going on.  ``steps`` are all that there will be."""

    def __init__(self, progress: Progress, steps: int) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=steps)

    def begin(self, words: str) -> None:
        """Something begins."""
        self._progress.update(self._task, description=words)

    def done(self) -> None:
        """A step is done."""
        self._progress.advance(self._task)


@contextmanager
def showing(steps: int) -> Iterator[Show]:
    """A show on standard error; silent where that is no terminal."""
    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        Elapsed(),
        TextColumn("{task.description}"),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        yield Show(progress, steps)


def print_table(runs: Sequence[Run], summary: Summary, *, console: Console | None = None) -> None:
    """The runs, and what they come to; it fits 80 columns."""
    console = console or Console()
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold underline")
    table.add_column("prompt", no_wrap=True)
    for name in _NUMBERS:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("same", no_wrap=True)
    phase = ""
    for run in runs:
        if run.phase != phase:
            phase = run.phase
            table.add_row()
            table.add_row(f"[bold]{_PHASES[phase]}")
        table.add_row(*_cells(run))
    console.print("\nTime to first token, without the store and with it\n", highlight=False)
    console.print(table)
    console.print(_sentence(summary), highlight=False)


def _cells(run: Run) -> tuple[str, ...]:
    is_hit = run.reused_tokens > 0
    return (
        run.name,
        f"{run.prompt_tokens:,}",
        f"{run.reused_tokens:,}",
        f"{run.prompt_tokens - run.reused_tokens:,}",
        run.tier if is_hit else "-",
        f"{run.ttft_cold_s:.1f} s",
        f"{run.ttft_warm_s:.2f} s" if is_hit else "-",
        f"{run.speedup:.0f} x" if is_hit else "-",
        "yes" if run.same_output else "[bold red]NO",
    )


def _sentence(summary: Summary) -> str:
    same = "Every answer is the same text" if summary.all_same else "Not every text is the same"
    return (
        f"{same}. Where anything was stored, the first token came {summary.speedup_median:.0f} "
        f"times sooner in the median. {summary.prefilled_tokens:,} tokens were prefilled in all."
    )
