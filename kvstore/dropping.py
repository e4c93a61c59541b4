"""DROP: take blocks away for good, and say so only when nothing can bring them back.

    under the lock      the rows leave the index, some at a time; their disk places stay leased
    without             tombstones, durable; headers overwritten, durable; the index synced
    under the lock      the places are free

A stripe out of reach makes the receipt partial: its share is owed, and carried out before the
stripe serves again.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .drops import Drops
from .errors import TierError
from .ghosts import Reason
from .index import ABSENT, DISK, HOST, TIERS
from .keys import KEY_BYTES
from .residency import Residency
from .stripe import Stripe
from .tier import Place
from .tombstones import Tombstone

_AT_ONCE = 64  # rows


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
                named = rows()
                keys = [residency.index.fid[row][:KEY_BYTES] for row in named]
                doomed = self._doomed(named)
            debris, count = _Debris([], []), 0
            for some in _pieces(doomed):
                with residency.lock.behind:
                    count += self._remove(some, debris)
            unreachable = {n for n, s in enumerate(residency.disk.stripes) if s.breaker.is_open}
            if residency.disk.stripes:
                self._drops.add(subjects(generation, keys), unreachable)
            written = self._wipe(debris, unreachable, overwrite=overwrite)
            with residency.lock:
                self._release(debris, unreachable)
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

    def _doomed(self, named: Sequence[int]) -> list[tuple[int, bytes]]:
        """These rows and all that hangs from them, with their frame ids, heads first."""
        index, found = self._residency.index, dict[int, bytes]()
        todo = list(named)
        while todo:
            row = todo.pop()
            if row not in found:
                found[row] = index.fid[row]
                todo.extend(index.children(row))
        return list(found.items())

    def _remove(self, doomed: Sequence[tuple[int, bytes]], debris: _Debris) -> int:
        """Take some rows away, with what came to hang from them meanwhile; how many went."""
        residency, count = self._residency, 0
        for row, fid in doomed:
            if residency.index.fid[row] == fid:
                for each in residency.index.subtree(row):
                    self._lease(each, debris)
                count += len(residency.remove(row, Reason.DROPPED))
        residency.counters.dropped += count
        return count

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


def _pieces(doomed: list[tuple[int, bytes]]) -> Iterator[list[tuple[int, bytes]]]:
    """Tails first, so that little hangs from each row; as many as an engine may wait for."""
    for end in range(len(doomed), 0, -_AT_ONCE):
        yield doomed[max(0, end - _AT_ONCE) : end][::-1]


def _wipe_stripe(stripe: Stripe, here: list[tuple[int, int]], *, overwrite: bool) -> int:
    stripe.wipe([slot for slot, _ in here])
    if not overwrite:
        return 0
    for slot, _ in here:
        stripe.zero(slot)
    stripe.sync()
    return sum(nbytes for _, nbytes in here)
