"""What a benchmark is made of: figures with their aims, and comparisons that share their noise.

A figure is a ratio wherever it can be: what is measured and what it is held against run in turns,
round by round, in one process, and the figure is the median of the rounds' ratios.  A neighbour
who slows one side slows the other side of the same round too.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

Clock = Callable[[], float]
Trial = Callable[[], object]
"""What is timed."""
Prepare = Callable[[int], Trial]
"""Makes a round's trial ready, untimed; called with the round's number."""


class Spread(NamedTuple):
    """The middle of several measurements, and their quartiles."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table: what was measured and what it should reach.

    ``at_most`` says that less is better; ``unit`` is empty for a ratio.
    """

    name: str
    measured: Spread
    aim: float
    unit: str = ""
    at_most: bool = False
    note: str = ""

    @property
    def is_reached(self) -> bool:
        """Whether the median is as good as the aim."""
        if self.at_most:
            return self.measured.median <= self.aim
        return self.measured.median >= self.aim


@dataclass(frozen=True, slots=True)
class Pairs:
    """Seconds of ours and of what it is held against, round by round."""

    ours: Sequence[float]
    theirs: Sequence[float]

    @property
    def speed(self) -> Spread:
        """Ours as a share of their speed; more is better."""
        return spread([b / a for a, b in zip(self.ours, self.theirs, strict=True)])

    @property
    def cost(self) -> Spread:
        """Ours in multiples of their time; less is better."""
        return spread([a / b for a, b in zip(self.ours, self.theirs, strict=True)])


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles."""
    low, median, high = np.percentile(values, (25, 50, 75)).tolist()
    return Spread(median, low, high)


def exactly(value: float) -> Spread:
    """A figure that is counted, not timed."""
    return Spread(value, value, value)


def seconds(trial: Trial, clock: Clock = time.perf_counter) -> float:
    """What a trial takes."""
    start = clock()
    trial()
    return clock() - start


def paired(ours: Prepare, theirs: Prepare, *, rounds: int, clock: Clock) -> Pairs:
    """Time both in turns, each round in the other order; a first round is not counted.

    ``clock`` is ``time.thread_time`` where all the work is the calling thread's own, so that
    neighbours on a shared machine cost nothing, and ``time.perf_counter`` elsewhere.
    """
    taken: list[tuple[float, float]] = []
    for number in range(rounds + 1):
        if number % 2:
            a, b = seconds(ours(number), clock), seconds(theirs(number), clock)
        else:
            b, a = seconds(theirs(number), clock), seconds(ours(number), clock)
        taken.append((a, b))
    return Pairs([a for a, _ in taken[1:]], [b for _, b in taken[1:]])
