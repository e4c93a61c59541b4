"""What a store counts, and the picture of it that ``Store.stats`` gives."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(slots=True)
class Counters:
    """Running counts; written under the store's lock, or by one thread each.

    Lists are indexed by tier number.
    """

    matches: int = 0
    matched_tokens: int = 0
    asked_tokens: int = 0
    loaded: list[int] = field(default_factory=lambda: [0, 0])
    loaded_bytes: list[int] = field(default_factory=lambda: [0, 0])
    loaded_tokens: int = 0
    saved: int = 0
    saved_bytes: int = 0
    already_stored: int = 0
    refused: int = 0
    replaced: int = 0
    demoted: int = 0
    demoted_bytes: int = 0
    evicted: list[int] = field(default_factory=lambda: [0, 0])
    evicted_bytes: list[int] = field(default_factory=lambda: [0, 0])
    dropped_dirty: int = 0
    expired: int = 0
    dropped: int = 0
    quarantined: int = 0
    gaps: int = 0
    late_loads: int = 0
    failed_loads: int = 0
    failed_writes: int = 0


@dataclass(frozen=True, slots=True)
class TierStats:
    """One tier at one moment; ``degraded`` says why it is switched off, empty where it is not."""

    name: str
    capacity_bytes: int
    used_bytes: int
    payload_bytes: int
    blocks: int
    leased: int
    degraded: str


@dataclass(frozen=True, slots=True)
class Stats:
    """A store at one moment.

    ``blocks`` counts frames by key and part; ``counts`` are running totals since it was opened.
    """

    tiers: tuple[TierStats, ...]
    blocks: int
    dirty_blocks: int
    pinned_blocks: int
    ghosts: int
    counts: Mapping[str, int | list[int]]
