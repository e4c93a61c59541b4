"""What a connector counts: calls, what they reused, and those that went past the store."""

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from threading import Lock

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Counts:
    """What a connector did since it was made; tokens are those of prompts."""

    calls: int  # served and bypassed
    bypassed: Mapping[str, int]  # by reason; some were served and only not saved
    prompt_tokens: int
    reused_tokens: int
    frames_from_disk: int  # that had to be read for them
    short_loads: int  # sequences of which a block turned out bad
    saved_blocks: int  # stored when a call had ended, whoever stored them first


class Tally:
    """Running counts.  Any thread may call it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._numbers: Counter[str] = Counter()
        self._bypassed: Counter[str] = Counter()

    def bypass(self, reason: str) -> None:
        """A call went past the store."""
        log.debug("a call bypasses the store: %s", reason)
        with self._lock:
            self._numbers["calls"] += 1
            self._bypassed[reason] += 1

    def leave(self, reason: str) -> None:
        """A call was served, and what it computed cannot be saved."""
        log.debug("nothing of a call is saved: %s", reason)
        with self._lock:
            self._bypassed[reason] += 1

    def restore(
        self, *, prompt_tokens: int, reused_tokens: int, frames_from_disk: int, short_loads: int
    ) -> None:
        """A call was served."""
        with self._lock:
            self._numbers["calls"] += 1
            self._numbers["prompt_tokens"] += prompt_tokens
            self._numbers["reused_tokens"] += reused_tokens
            self._numbers["frames_from_disk"] += frames_from_disk
            self._numbers["short_loads"] += short_loads

    def save(self, blocks: int) -> None:
        """So many blocks of a call are stored."""
        with self._lock:
            self._numbers["saved_blocks"] += blocks

    @property
    def counts(self) -> Counts:
        """The counts at this moment."""
        with self._lock:
            return Counts(
                calls=self._numbers["calls"],
                bypassed=dict(self._bypassed),
                prompt_tokens=self._numbers["prompt_tokens"],
                reused_tokens=self._numbers["reused_tokens"],
                frames_from_disk=self._numbers["frames_from_disk"],
                short_loads=self._numbers["short_loads"],
                saved_blocks=self._numbers["saved_blocks"],
            )
