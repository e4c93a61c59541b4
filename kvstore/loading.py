"""MATCH and LOAD: which of a prompt's blocks are here, and leases on those that fit.

A hold leases, block by block, what restoring the longest length needs.  Where host memory does not
suffice for what must be read from disk, it settles for the next shorter restorable length: a hit
that fits only partly loads what fits.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .fetch import Fetch
from .hit import Lease
from .index import ABSENT, HOST, NONE
from .layout import EXACT, Layout, Part
from .plan import Plan, State, needed, restorable
from .promotion import Promotion
from .residency import Residency


class Held(NamedTuple):
    """What a hold got: leases by part and block, the blocks that they restore, reads to start."""

    leases: dict[tuple[Part, int], Lease]
    blocks: int
    fetches: list[Fetch]


class Loading:
    """Plans and leases for one space.  Any thread may call."""

    def __init__(
        self, residency: Residency, promotion: Promotion, layout: Layout, parts: tuple[Part, ...]
    ) -> None:
        self._residency = residency
        self._promotion = promotion
        self._layout = layout
        self._parts = parts

    def plan(self, keys: Sequence[bytes], asked_tokens: int) -> Plan:
        """What is stored of a chain of keys, at this moment."""
        residency = self._residency
        with residency.lock:
            rows = [
                residency.index.find_all([k + s for k in keys]) for s in map(bytes, self._parts)
            ]
            states = np.stack([self._states(r) for r in rows]) if keys else _nothing(self._parts)
            ready = states == State.READY
            lengths = restorable(self._layout, self._parts, ready)
            fidelity = self._fidelity(rows, lengths[-1] if lengths else 0)
            counters = residency.counters
            counters.matches += 1
            counters.asked_tokens += asked_tokens
            counters.matched_tokens += (lengths[-1] if lengths else 0) * self._layout.block_tokens
            counters.gaps += bool(ready.shape[1] and _has_gap(ready))
        step = self._layout.block_tokens
        return Plan(
            keys, self._parts, states, tuple(n * step for n in lengths), fidelity, asked_tokens
        )

    def hold(self, plan: Plan, at_most: int) -> Held:
        """Lease what the longest restorable length up to ``at_most`` tokens needs."""
        step = self._layout.block_tokens
        leases: dict[tuple[Part, int], Lease] = {}
        fetches: list[Fetch] = []
        wanted = [length // step for length in plan.lengths if length <= at_most]
        with self._residency.lock:
            while wanted:
                blocks = wanted.pop()
                lost = self._lease(plan, blocks, leases, fetches)
                if lost is None:
                    self._trim(leases, blocks)
                    self._touch(leases)
                    return Held(leases, blocks, fetches)
                wanted = [n for n in wanted if n <= lost]
            self._trim(leases, 0)
        return Held(leases, 0, fetches)

    def _lease(
        self,
        plan: Plan,
        blocks: int,
        leases: dict[tuple[Part, int], Lease],
        fetches: list[Fetch],
    ) -> int | None:
        """Lease what is still missing for so many blocks; the first block that cannot be had."""
        reach = [(p, bytes(p), needed(self._layout, p, blocks)) for p in self._parts]
        for block in range(blocks):
            for part, suffix, wanted in reach:
                if block not in wanted or (part, block) in leases:
                    continue
                lease = self._lease_one(plan.keys[block] + suffix, fetches)
                if lease is None:
                    return block
                leases[part, block] = lease
        return None

    def _lease_one(self, fid: bytes, fetches: list[Fetch]) -> Lease | None:
        residency, index = self._residency, self._residency.index
        row = index.find(fid)
        if row == NONE or 0 < index.expiry[row] <= residency.clock():
            return None
        generation, slot = index.generation[row], index.place[HOST][row]
        fetch = None
        if slot == ABSENT:
            if not residency.is_resident(row):
                return None
            fetch, is_new = self._promotion.fetch(row)
            if fetch is None:
                return None
            if is_new:
                fetches.append(fetch)
            slot, nbytes = fetch.parcel.slot, fetch.parcel.nbytes
        else:
            nbytes = index.nbytes[HOST][row]
        residency.host.slab.lease(slot)
        return Lease(
            row, generation, slot, nbytes, bool(index.plain[row]), index.fidelity[row], fetch
        )

    def _trim(self, leases: dict[tuple[Part, int], Lease], blocks: int) -> None:
        """End the leases that restoring so many blocks does not need."""
        reach = {part: needed(self._layout, part, blocks) for part in self._parts}
        if len(leases) == sum(len(wanted) for wanted in reach.values()):
            return
        for part, block in [which for which in leases if which[1] not in reach[which[0]]]:
            lease = leases.pop((part, block))
            self._residency.release(lease.row, lease.slot)

    def _touch(self, leases: dict[tuple[Part, int], Lease]) -> None:
        by_block = sorted(leases, key=lambda which: which[1])
        self._residency.policy.touch([leases[which].row for which in by_block])

    def _states(self, rows: list[int]) -> NDArray[np.uint8]:
        index, residency = self._residency.index, self._residency
        now = residency.clock()
        states = np.zeros(len(rows), np.uint8)
        host, expiry = index.place[HOST], index.expiry
        for number, row in enumerate(rows):
            if row == NONE or 0 < expiry[row] <= now:
                continue
            if host[row] != ABSENT or residency.is_resident(row):
                states[number] = State.READY
            elif not residency.is_on_disk(row):
                states[number] = State.PENDING
        return states

    def _fidelity(self, rows: list[list[int]], blocks: int) -> int:
        fidelity = self._residency.index.fidelity
        weakest = EXACT
        for part, part_rows in zip(self._parts, rows, strict=True):
            reach = needed(self._layout, part, blocks)
            those = part_rows[reach.start : reach.stop]
            weakest = min(weakest, min(map(fidelity.__getitem__, those), default=EXACT))
        return weakest


def _nothing(parts: Sequence[Part]) -> NDArray[np.uint8]:
    return np.zeros((len(parts), 0), np.uint8)


def _has_gap(ready: NDArray[np.bool_]) -> bool:
    """Whether a block is stored behind one that is not."""
    whole: NDArray[np.bool_] = np.logical_and.reduce(ready)
    return bool((~whole[:-1] & whole[1:]).any())
