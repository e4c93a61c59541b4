"""What the demo finds out: one run for each prompt that was asked with the store."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Phase = Literal["documents", "conversation", "new_process", "after_kill"]


@dataclass(frozen=True, slots=True)
class Run:
    """One prompt, asked with the store, and what it took without."""

    phase: Phase
    name: str
    tier: str  # "ram", "disk" where any of it had to be read, "none" where nothing was stored
    prompt_tokens: int
    reused_tokens: int
    ttft_cold_s: float
    ttft_warm_s: float
    same_output: bool

    @property
    def speedup(self) -> float:
        """How many times sooner the first token came."""
        return self.ttft_cold_s / self.ttft_warm_s

    def to_dict(self) -> dict[str, object]:
        """The run as ``--json`` prints it."""
        return {
            "phase": self.phase,
            "tier": self.tier,
            "prompt_tokens": self.prompt_tokens,
            "reused_tokens": self.reused_tokens,
            "ttft_cold_s": self.ttft_cold_s,
            "ttft_warm_s": self.ttft_warm_s,
            "same_output": self.same_output,
        }


@dataclass(frozen=True, slots=True)
class Summary:
    """What all runs come to; ``speedup_median`` is over those in which anything was reused."""

    speedup_median: float
    all_same: bool
    prefilled_tokens: int


def summarise(runs: Sequence[Run], prefilled_tokens: int) -> Summary:
    """What the runs come to."""
    hits = [run.speedup for run in runs if run.reused_tokens]
    return Summary(
        statistics.median(hits) if hits else 0.0,
        all(run.same_output for run in runs),
        prefilled_tokens,
    )


def to_dict(runs: Sequence[Run], summary: Summary) -> dict[str, object]:
    """Everything as ``--json`` prints it."""
    return {
        "runs": [run.to_dict() for run in runs],
        "speedup_median": summary.speedup_median,
        "all_same": summary.all_same,
    }
