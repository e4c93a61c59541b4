"""How the demo looks: what it does while it works, on standard error, and a table at the end."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.progress import TimeElapsedColumn as Elapsed
from rich.table import Table

from .demo_runs import Run, Summary

_PHASES = {
    "documents": "documents",
    "conversation": "conversation",
    "new_process": "in a new process",
    "after_kill": "after a kill -9",
}


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


def print_table(runs: Sequence[Run], summary: Summary) -> None:
    """The runs, and what they come to."""
    console = Console()
    table = Table(title="Time to first token, without the store and with it", title_justify="left")
    for name in ("", "prompt"):
        table.add_column(name, overflow="fold")
    for name in ("tokens", "reused", "recomputed", "from", "without", "with", "speed-up"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("same text")
    phase = ""
    for run in runs:
        if phase and run.phase != phase:
            table.add_section()
        table.add_row(*_cells(run, is_first=run.phase != phase))
        phase = run.phase
    console.print(table)
    console.print(_sentence(summary))


def _cells(run: Run, *, is_first: bool) -> tuple[str, ...]:
    return (
        _PHASES[run.phase] if is_first else "",
        run.name,
        f"{run.prompt_tokens:,}",
        f"{run.reused_tokens:,}",
        f"{run.prompt_tokens - run.reused_tokens:,}",
        run.tier if run.reused_tokens else "-",
        f"{run.ttft_cold_s:.2f} s",
        f"{run.ttft_warm_s:.2f} s" if run.reused_tokens else "-",
        f"{run.speedup:.0f} x" if run.reused_tokens else "-",
        "yes" if run.same_output else "NO",
    )


def _sentence(summary: Summary) -> str:
    same = "Every answer is the same text" if summary.all_same else "Not every text is the same"
    return (
        f"{same}. Where something was stored the first token came {summary.speedup_median:.0f} "
        f"times sooner, in the median. {summary.prefilled_tokens:,} tokens were prefilled in all."
    )
