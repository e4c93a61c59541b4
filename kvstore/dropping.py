"""DROP: take blocks away for good, and say so only when nothing can bring them back.

    under the lock      the rows leave the index, some at a time; their disk places stay leased
    without             tombstones, durable; headers overwritten, durable; the index synced
    under the lock      the places are free

A stripe out of reach makes the receipt partial: its share is owed, and carried out before the
stripe serves again.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .drops import Drops
from .errors import TierError
from .ghosts import Reason
from .index import ABSENT, DISK, HOST, NONE, TIERS
from .keys import KEY_BYTES
from .residency import Residency
from .stripe import Stripe
from .tier import Place
from .tombstones import Tombstone

_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a drop did.

    ``blocks`` counts frames; ``removed`` counts them by tier; of their payload on all tiers
    ``overwritten_bytes`` were overwritten, ``freed_bytes`` only freed (what somebody still reads is
    never overwritten).  ``partial`` names the media
    that could not be reached; empty means that nothing can bring the blocks back.
    """

    when: float
    blocks: int
    removed: Mapping[str, int]
    overwritten_bytes: int
    freed_bytes: int
    partial: tuple[str, ...]


class _Debris(NamedTuple):
    """What the removed rows left on the tiers: leased host slots and disk places."""

    slots: list[tuple[int, int]]  # host slot, payload bytes
    places: list[tuple[Place, int]]


class Dropping:
    """Carries out drops, one at a time.  Any thread may call."""

    def __init__(self, residency: Residency, drops: Drops) -> None:
        self._residency = residency
        self._drops = drops
        self._one_at_a_time = threading.Lock()
        self._owed: dict[int, list[Place]] = {}

    def drop(
        self,
        subjects: Callable[[int, Sequence[bytes]], Sequence[Tombstone]],
        rows: Callable[[], Sequence[int]],
        *,
        overwrite: bool,
    ) -> Receipt:
        """Drop the rows that ``rows`` names, with all that hangs from them.

        ``subjects`` makes the tombstones, from the generation up to which they hold and the keys of
        the rows; ``rows`` is called under the store's lock.  ``overwrite`` zeroes the payload too.
        """
        residency = self._residency
        with self._one_at_a_time:
            with residency.lock:
                generation = residency.buried_up_to = residency.generation
                residency.is_dropping = True
                named = rows()
                fids = residency.index.fid[named].tolist()
            debris = _Debris([], [])
            count = self._remove(list(zip(named, fids, strict=True)), debris)
            unreachable = {n for n, s in enumerate(residency.disk.stripes) if s.breaker.is_open}
            try:
                if residency.disk.stripes:
                    keys = dict.fromkeys(fid[:KEY_BYTES] for fid in fids)
                    self._drops.add(subjects(generation, list(keys)), unreachable)
            finally:
                written = self._wipe(debris, unreachable, overwrite=overwrite)
                with residency.lock:
                    self._release(debris, unreachable)
                    residency.is_dropping = False
        payload = sum(nbytes for _, nbytes in (*debris.slots, *debris.places))
        return Receipt(
            when=residency.clock(),
            blocks=count,
            removed={TIERS[HOST]: len(debris.slots), TIERS[DISK]: len(debris.places)},
            overwritten_bytes=written,
            freed_bytes=payload - written,
            partial=tuple(
                f"{stripe.directory}: {stripe.breaker.reason}"
                for number, stripe in enumerate(residency.disk.stripes)
                if number in unreachable
            ),
        )

    def settle(self, stripe: int) -> None:
        """Carry out on a stripe what it is owed; raises TierError where it cannot be reached."""
        with self._one_at_a_time:
            disk = self._residency.disk
            owed = self._owed.get(stripe, [])
            disk.stripes[stripe].wipe([place.slot for place in owed])
            self._drops.catch_up(stripe)
            self._owed.pop(stripe, None)
            with self._residency.lock:
                for place in owed:
                    disk.release(place)
                disk.stripes[stripe].breaker.probed(succeeded=True)  # nothing is owed from here on
                self._residency.room.offer_all()

    def _remove(self, named: Sequence[tuple[int, bytes]], debris: _Debris) -> int:
        """Take these rows away, by number and frame id, and all that hangs from them; how many.

        Tails go before heads, and an engine that wants the lock waits for ``_AT_ONCE`` steps.
        """
        count, todo = 0, list(named)
        while todo:
            with self._residency.lock.behind:
                count += sum(self._step(todo, debris) for _ in range(_AT_ONCE))
        return count

    def _step(self, todo: list[tuple[int, bytes]], debris: _Debris) -> int:
        """Go from the last row down to its child, or take it away if it has none; how many went."""
        if not todo:
            return 0
        residency, index, (row, fid) = self._residency, self._residency.index, todo[-1]
        if index.fid[row] != fid:
            todo.pop()  # gone
            return 0
        if (child := index.child[row]) != NONE:
            todo.append((child, index.fid[child]))
            return 0
        todo.pop()
        self._lease(row, debris)
        residency.counters.dropped += 1
        return len(residency.remove(row, Reason.DROPPED))

    def _lease(self, row: int, debris: _Debris) -> None:
        """Keep a row's places until they are wiped."""
        residency, index = self._residency, self._residency.index
        if index.place[HOST][row] != ABSENT:
            slot = index.place[HOST][row]
            residency.host.slab.lease(slot)
            debris.slots.append((slot, index.nbytes[HOST][row]))
        for place, nbytes in residency.disk_copies(row):
            residency.disk.lease(place)
            debris.places.append((place, nbytes))

    def _wipe(self, debris: _Debris, unreachable: set[int], *, overwrite: bool) -> int:
        """Overwrite headers, and payload where asked; payload bytes that were overwritten."""
        host, disk, written = self._residency.host, self._residency.disk, 0
        if overwrite:
            with self._residency.lock:  # nobody can lease a removed block, so these stay ours
                unread = [each for each in debris.slots if not host.slab.is_shared(each[0])]
            for slot, nbytes in unread:
                for piece in host.pieces(slot, nbytes):
                    piece[:] = np.uint8(0)
                written += nbytes
        for number, stripe in enumerate(disk.stripes):
            if number not in unreachable:
                here = [(p.slot, nbytes) for p, nbytes in debris.places if p.stripe == number]
                try:
                    written += _wipe_stripe(stripe, here, overwrite=overwrite)
                except TierError as error:
                    stripe.breaker.failure(str(error))
                    unreachable.add(number)
        self._sync_index(unreachable)
        return written

    def _sync_index(self, unreachable: set[int]) -> None:
        disk = self._residency.disk
        if disk.stripes:
            try:
                disk.catalog.commit()
                disk.catalog.sync()
            except TierError as error:
                for number, stripe in enumerate(disk.stripes):
                    stripe.breaker.failure(str(error))
                    unreachable.add(number)

    def _release(self, debris: _Debris, unreachable: set[int]) -> None:
        for slot, _ in debris.slots:
            self._residency.host.slab.release(slot)
        for place, _ in debris.places:
            if place.stripe in unreachable:
                self._owed.setdefault(place.stripe, []).append(place)
            else:
                self._residency.disk.release(place)


def _wipe_stripe(stripe: Stripe, here: list[tuple[int, int]], *, overwrite: bool) -> int:
    stripe.wipe([slot for slot, _ in here])
    if not overwrite:
        return 0
    for slot, _ in here:
        stripe.zero(slot)
    stripe.sync()
    return sum(nbytes for _, nbytes in here)
