"""The background threads: they bring blocks up, write them behind, and keep house.

Each stripe has readers of its own.  Writers choose a stripe when they have sealed a batch, rather
one where nobody waits, so that a disk that hangs holds up nobody else for long.  Loads go before
stores: a writer lets waiting reads start first.  Queues are bounded; what does not
fit is dropped and counted, and ``flush`` finds it again.  One more thread keeps house: it commits
the catalog, ends what has expired and probes what is switched off.

A read or write that never comes back keeps its thread, its pages and its place until it does.
"""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from .backlog import Backlog
from .demote import Demotion
from .errors import TierError
from .fetch import Fetch
from .formatting import Formatting
from .index import HOST
from .promotion import Promotion
from .reading import Reading
from .residency import Residency
from .stripe import Stripe
from .survey import dirty

_COURTESY_S = 0.05  # how long a writer lets reads go first
_CATALOG_S = 0.05
_HOUSE_S = 1.0
_PATIENCE_S = 5.0
_SEAL_S = 1.0  # checksums for whoever inherits the slab are not taken while a burst is coming in
_READS = 16  # blocks that are read together at most
_READ_BYTES = 8 << 20
_WRITES = 8  # blocks that are sealed, then written together, so that their headers are one write
_WRITE_BYTES = 16 << 20


class _Write(NamedTuple):
    number: int
    row: int
    generation: int


class Mover:
    """Moves blocks between host memory and disk.  Any thread may call."""

    def __init__(
        self,
        residency: Residency,
        promotion: Promotion,
        *,
        demotion: Demotion,
        settle: Callable[[int], None],
        readers: int,
        writers: int,
    ) -> None:
        self._residency = residency
        self._disk = disk = residency.disk
        self._reading = Reading(residency, promotion)
        self._demotion = demotion
        self._settle = settle  # gives a stripe what it is owed and lets it serve again
        self._reads = [
            Backlog(_fetched, count=_READS, nbytes=_READ_BYTES, takers=readers)
            for _ in disk.stripes
        ]
        self._writers = (writers + 1) * len(disk.stripes) or 1  # one seals while the others write
        self._writes = Backlog(
            self._written, count=_WRITES, nbytes=_WRITE_BYTES, takers=self._writers
        )
        self._write_limit = 4 * residency.host.slab.slots
        self._books = threading.Condition()  # guards the four below
        self._number = 0
        self._oldest = 1  # no write of a lower number is going on
        self._unwritten: set[int] = set()  # numbers of writes that have not ended
        self._drainers = 0
        self._formatting = Formatting(residency)
        self._probing: set[int] = set()
        self._closing = threading.Event()
        self._threads = [
            threading.Thread(target=work, args=args, name=f"kvstrata-{name}", daemon=True)
            for name, work, args in self._jobs(readers)
        ]
        for thread in self._threads:
            thread.start()

    def load(self, fetches: Iterable[Fetch]) -> None:
        """Start reads."""
        for fetch in fetches:
            self._reads[fetch.source.place.stripe].put(fetch)

    def store(self, rows: Sequence[int]) -> None:
        """Write these rows to disk, in this order, as soon as it goes.

        Where too many are waiting they are left out; they stay dirty, and ``flush`` finds them.
        """
        generations = [self._residency.index.generation[row] for row in rows]
        room = max(0, self._write_limit - len(self._writes))
        with self._books:
            first = self._number + 1
            self._number += min(len(rows), room)
            self._unwritten.update(range(first, self._number + 1))
        for number, row, generation in zip(
            range(first, first + room), rows, generations, strict=False
        ):
            self._writes.put(_Write(number, row, generation))

    def drain(self, timeout_s: float | None = None) -> bool:
        """Wait until every write queued before this call has ended; False if it takes longer."""
        with self._books:
            last = self._number
            self._drainers += 1
            try:
                return self._books.wait_for(lambda: self._has_ended(last), timeout_s)
            finally:
                self._drainers -= 1

    def _has_ended(self, last: int) -> bool:
        """Whether every write up to that number has."""
        while self._oldest <= last and self._oldest not in self._unwritten:
            self._oldest += 1
        return self._oldest > last

    def close(self) -> None:
        """Stop the threads; what is queued is not written, what is in flight is waited for."""
        self._closing.set()
        self._formatting.stop()
        self._writes.end()
        for reads in self._reads:
            reads.end()
        end = time.monotonic() + _PATIENCE_S
        for thread in self._threads:  # one that hangs in the kernel is left behind
            thread.join(max(0.0, end - time.monotonic()))

    def _jobs(self, readers: int) -> Iterable[tuple[str, Callable[..., None], tuple[int, ...]]]:
        # where there is no disk they only seal: a slab that is inherited needs checksums
        yield from (("write", self._write_loop, ()) for _ in range(self._writers))
        for stripe in range(len(self._disk.stripes)):
            yield from (("read", self._read_loop, (stripe,)) for _ in range(readers))
            yield "format", self._formatting.run, (stripe,)
        yield "house", self._house_loop, ()

    def _read_loop(self, stripe: int) -> None:
        while (batch := self._reads[stripe].take()) and not self._closing.is_set():
            self._reading.read(batch)

    def _write_loop(self) -> None:
        while (batch := self._writes.take()) and not self._closing.is_set():
            if self._disk.takes_writes:
                self._let_reads_go_first()
            elif not self._writes:
                self._closing.wait(_SEAL_S)
            self._write(batch)

    def _written(self, write: _Write) -> int:
        return self._residency.index.nbytes[HOST][write.row]

    def _write(self, batch: Sequence[_Write]) -> None:
        try:
            self._demotion.write([(row, generation) for _, row, generation in batch])
        finally:
            with self._books:
                self._unwritten.difference_update(number for number, _, _ in batch)
                if self._drainers:
                    self._books.notify_all()

    def _let_reads_go_first(self) -> None:
        patience = time.monotonic() + _COURTESY_S
        while any(self._reads) and time.monotonic() < patience:
            time.sleep(_COURTESY_S / 50)

    def _house_loop(self) -> None:
        waited = 0.0
        while not self._closing.wait(_CATALOG_S):
            self._commit()
            waited += _CATALOG_S
            if waited >= _HOUSE_S:
                waited = 0.0
                self._keep_house()

    def _commit(self) -> None:
        try:
            if self._disk.stripes and self._disk.catalog.has_queued:
                self._disk.catalog.commit()
        except TierError as error:
            for stripe in self._disk.stripes:
                stripe.breaker.failure(str(error))

    def _keep_house(self) -> None:
        self._residency.expire()
        for number, stripe in enumerate(self._disk.stripes):
            if stripe.breaker.wants_probe and number not in self._probing:
                self._probing.add(number)
                name = f"kvstrata-probe-{number}"
                threading.Thread(
                    target=self._probe, args=(number, stripe), name=name, daemon=True
                ).start()

    def _probe(self, number: int, stripe: Stripe) -> None:
        """Try a medium; on a thread of its own, for one that hangs would stop the house."""
        is_well = stripe.probe()
        if is_well:
            try:
                self._settle(number)
            except TierError:
                is_well = False
        if is_well:
            with self._residency.lock.behind:
                rows = dirty(self._residency)
            self.store(rows)
        else:
            stripe.breaker.probed(succeeded=False)
        self._probing.discard(number)


def _fetched(fetch: Fetch) -> int:
    return fetch.parcel.nbytes
