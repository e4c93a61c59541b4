"""MATCH and LOAD: which of a prompt's blocks are here, and leases on those that fit.

A hold leases, block by block, what restoring the longest length needs.  Where host memory does not
suffice for what must be read from disk, it settles for the next shorter restorable length: a hit
that fits only partly loads what fits.
"""

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .fetch import Fetch
from .hit import Lease, Leases
from .index import ABSENT, HOST, NONE
from .layout import EXACT, Layout, Part
from .plan import Plan, State, needed, restorable
from .promotion import Promotion
from .residency import Residency


class Held(NamedTuple):
    """What a hold got: leases, the blocks that they restore, reads to start."""

    leases: Leases
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
        with self._residency.lock:
            return self._plan(keys, asked_tokens)

    def match(self, keys: Sequence[bytes], asked_tokens: int) -> Plan:
        """The same for an engine that has this prompt before it: asked for, and counted."""
        counters = self._residency.counters
        with self._residency.lock:
            plan = self._plan(keys, asked_tokens)
            counters.matches += 1
            counters.asked_tokens += asked_tokens
            counters.matched_tokens += plan.tokens
            is_short = plan.tokens < len(keys) * self._layout.block_tokens
            counters.gaps += is_short and _has_gap(plan.states == State.READY)
        return plan

    def hold(self, plan: Plan, at_most: int) -> Held:
        """Lease what the longest restorable length up to ``at_most`` tokens needs."""
        step = self._layout.block_tokens
        leases: Leases = {part: {} for part in self._parts}
        fetches: list[Fetch] = []
        wanted = [length // step for length in plan.lengths if length <= at_most]
        with self._residency.lock:
            while wanted:
                blocks = wanted.pop()
                lost = self._lease(plan.keys, blocks, leases, fetches)
                if lost is None:
                    self._trim(leases, blocks)
                    self._touch(leases)
                    return Held(leases, blocks, fetches)
                wanted = [n for n in wanted if n <= lost]
            self._trim(leases, 0)
        return Held(leases, 0, fetches)

    def _plan(self, keys: Sequence[bytes], asked_tokens: int) -> Plan:
        step, find_all = self._layout.block_tokens, self._residency.index.find_all
        rows = [find_all([key + suffix for key in keys]) for suffix in map(bytes, self._parts)]
        states = self._states(rows)
        lengths = restorable(self._layout, self._parts, states == State.READY)
        fidelity = self._fidelity(rows, lengths[-1] if lengths else 0)
        return Plan(
            keys, self._parts, states, tuple(n * step for n in lengths), fidelity, asked_tokens
        )

    def _lease(
        self, keys: Sequence[bytes], blocks: int, leases: Leases, fetches: list[Fetch]
    ) -> int | None:
        """Lease what is still missing for so many blocks; the first block that cannot be had."""
        find, lease_one = self._residency.index.find, self._lease_one
        reach = [(bytes(p), leases[p], needed(self._layout, p, blocks)) for p in self._parts]
        for block in range(blocks):
            for suffix, here, wanted in reach:
                if block not in wanted or block in here:
                    continue
                lease = lease_one(find(keys[block] + suffix), fetches)
                if lease is None:
                    return block
                here[block] = lease
        return None

    def _lease_one(self, row: int, fetches: list[Fetch]) -> Lease | None:
        residency, index = self._residency, self._residency.index
        if row == NONE or 0 < index.expiry[row] <= residency.clock():
            return None
        slot, nbytes, fetch = index.place[HOST][row], index.nbytes[HOST][row], None
        if slot == ABSENT:
            if not residency.is_resident(row):
                return None
            fetch, is_new = self._promotion.fetch(row)
            if fetch is None:
                return None
            if is_new:
                fetches.append(fetch)
            slot, nbytes = fetch.parcel.slot, fetch.parcel.nbytes
        residency.host.slab.lease(slot)
        is_plain = index.plain[row] == 1
        return Lease(row, index.generation[row], slot, nbytes, is_plain, index.fidelity[row], fetch)

    def _trim(self, leases: Leases, blocks: int) -> None:
        """End the leases that restoring so many blocks does not need."""
        for part, here in leases.items():
            wanted = needed(self._layout, part, blocks)
            if len(here) > len(wanted):
                for block in [block for block in here if block not in wanted]:
                    lease = here.pop(block)
                    self._residency.release(lease.row, lease.slot)

    def _touch(self, leases: Leases) -> None:
        by_block = sorted(
            (block, lease.row) for here in leases.values() for block, lease in here.items()
        )
        self._residency.policy.touch([row for _, row in by_block])

    def _states(self, rows: Sequence[Sequence[int]]) -> NDArray[np.uint8]:
        """The states of rows by part and block; uint8 ``[part, block]``."""
        index, residency = self._residency.index, self._residency
        now, host, expiry = residency.clock(), index.place[HOST], index.expiry
        states, (miss, pending, ready) = bytearray(), map(int, State)
        for row in chain.from_iterable(rows):
            if row == NONE or 0 < expiry[row] <= now:
                states.append(miss)
            elif host[row] != ABSENT or residency.is_resident(row):
                states.append(ready)
            else:
                states.append(miss if residency.is_on_disk(row) else pending)
        return np.frombuffer(states, np.uint8).reshape(len(rows), -1)

    def _fidelity(self, rows: list[list[int]], blocks: int) -> int:
        fidelity = self._residency.index.fidelity
        weakest = EXACT
        for part, part_rows in zip(self._parts, rows, strict=True):
            reach = needed(self._layout, part, blocks)
            those = part_rows[reach.start : reach.stop]
            weakest = min(weakest, min(map(fidelity.__getitem__, those), default=EXACT))
        return weakest


def _has_gap(ready: NDArray[np.bool_]) -> bool:
    """Whether a block is stored behind one that is not."""
    whole: NDArray[np.bool_] = np.logical_and.reduce(ready)
    return bool((~whole[:-1] & whole[1:]).any())
