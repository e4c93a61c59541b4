"""Switches a failing medium off, and on again when a probe succeeds.

    CLOSED --failure--> OPEN --probe succeeds--> CLOSED
                         ^ `--probe fails: the pause doubles, to its limit

A medium that raised is off at once: an error of a disk is no hiccup, and a miss costs little.  A
medium that is only slow is off after ``patience`` reads in a row that missed their deadline.
"""

import logging
from collections.abc import Callable

_log = logging.getLogger("kvstrata")

_PAUSE_S = (1.0, 60.0)


class Breaker:
    """One medium's switch.  Any thread may call; a race costs one probe more."""

    def __init__(self, name: str, clock: Callable[[], float], *, patience: int = 4) -> None:
        self.name = name
        self.reason = ""
        self.trips = 0
        self._clock = clock
        self._patience = patience
        self._late = 0
        self._pause_s = _PAUSE_S[0]
        self._probe_at = 0.0

    @property
    def is_open(self) -> bool:
        """Whether the medium is switched off."""
        return self.reason != ""

    def failure(self, reason: str) -> None:
        """The medium raised."""
        if not self.is_open:
            self.trips += 1
            self._pause_s = _PAUSE_S[0]
            _log.warning("%s is degraded: %s; the store goes on without it", self.name, reason)
        self.reason = reason
        self._probe_at = self._clock() + self._pause_s

    def late(self) -> None:
        """A call missed its deadline."""
        self._late += 1
        if self._late >= self._patience:
            self.failure(f"{self._late} calls in a row missed their deadline")

    def success(self) -> None:
        """A call came back in time; only a probe closes an open breaker."""
        self._late = 0

    @property
    def wants_probe(self) -> bool:
        """Whether it is time to try the medium again."""
        return self.is_open and self._clock() >= self._probe_at

    def probed(self, succeeded: bool) -> None:
        """Take a probe's outcome."""
        if succeeded:
            _log.warning("%s has recovered", self.name)
            self.reason = ""
            self._late = 0
        else:
            self._pause_s = min(2 * self._pause_s, _PAUSE_S[1])
            self._probe_at = self._clock() + self._pause_s
