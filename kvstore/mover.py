"""The background threads: they bring blocks up, write them behind, and keep house.

Each stripe has readers and writers of its own, so that a disk that hangs holds up nobody else.
Loads go before stores: a writer lets waiting reads start first.  Queues are bounded; what does not
fit is dropped and counted, and ``flush`` finds it again.  One more thread keeps house: it commits
the catalog, ends what has expired and probes what is switched off.

A read or write that never comes back keeps its thread, its pages and its place until it does.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from .demote import Demotion
from .errors import ArgumentError, FrameError, TierError
from .fetch import Fetch
from .formatting import Formatting
from .frame import encode
from .payload import is_plain, sectors
from .promotion import Promotion
from .residency import Residency
from .stripe import Stripe
from .survey import dirty

_COURTESY_S = 0.05  # how long a writer lets reads go first
_CATALOG_S = 0.05
_HOUSE_S = 1.0
_BATCH = 8  # blocks that are written together, so that their headers are one write


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
        self._promotion = promotion
        self._disk = disk = residency.disk
        self._demotion = demotion
        self._settle = settle  # what a stripe is owed before it serves again
        self._changed = threading.Condition()
        self._closing = False
        self._reads: list[deque[Fetch]] = [deque() for _ in disk.stripes]
        self._writes: deque[tuple[int, int, int]] = deque()  # number, row, generation
        self._write_limit = 4 * residency.host.slab.slots
        self._number = 0
        self._formatting = Formatting(residency)
        self._probing: set[int] = set()
        self._unwritten: set[int] = set()  # numbers of writes that have not ended
        self._threads = [
            threading.Thread(target=work, args=args, name=f"kvstrata-{name}", daemon=True)
            for name, work, args in self._jobs(readers, writers)
        ]
        for thread in self._threads:
            thread.start()

    def load(self, fetches: Iterable[Fetch]) -> None:
        """Start reads."""
        with self._changed:
            for fetch in fetches:
                self._reads[fetch.source.place.stripe].append(fetch)
            self._changed.notify_all()

    def store(self, rows: Sequence[int], generations: Sequence[int]) -> None:
        """Write these rows to disk, in this order, as soon as it goes."""
        with self._changed:
            for row, generation in zip(rows, generations, strict=True):
                self._number += 1
                self._writes.append((self._number, row, generation))
                self._unwritten.add(self._number)
            while len(self._writes) > self._write_limit:
                self._unwritten.discard(self._writes.popleft()[0])
            self._changed.notify_all()

    def drain(self, timeout_s: float | None = None) -> bool:
        """Wait until every write queued before this call has ended; False if it takes longer."""
        with self._changed:
            last = self._number
            return self._changed.wait_for(
                lambda: not any(number <= last for number in self._unwritten), timeout_s
            )

    def close(self) -> None:
        """Stop the threads; what is queued is not written, what is in flight is waited for."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._formatting.stop()
        for thread in self._threads:
            thread.join(timeout=5.0)  # one that hangs in the kernel is left behind

    def _jobs(
        self, readers: int, writers: int
    ) -> Iterable[tuple[str, Callable[..., None], tuple[int, ...]]]:
        if not self._disk.stripes:
            yield "seal", self._write_loop, ()  # a slab that is inherited needs checksums
        for stripe in range(len(self._disk.stripes)):
            yield from (("read", self._read_loop, (stripe,)) for _ in range(readers))
            yield from (("write", self._write_loop, ()) for _ in range(writers))
            yield "format", self._formatting.run, (stripe,)
        yield "house", self._house_loop, ()

    def _read_loop(self, stripe: int) -> None:
        queue = self._reads[stripe]
        while True:
            with self._changed:
                self._changed.wait_for(lambda: queue or self._closing)
                if self._closing:
                    return
                fetch = queue.popleft()
            self._read(fetch)

    def _read(self, fetch: Fetch) -> None:
        residency, source = self._residency, fetch.source
        breaker = self._disk.stripes[source.place.stripe].breaker
        host, slot = residency.host, fetch.parcel.slot
        try:
            pieces = host.pieces(slot, sectors(fetch.parcel.nbytes))
            header = self._disk.read(source.place, source.fid, source.generation, pieces)
            fetch.is_plain = is_plain(header)
            here = header._replace(extents=host.slab.extents(slot))
            host.write_header(slot, encode(here, host.superblock.seed))
            fetch.is_good = True
            breaker.success()
        except TierError as error:
            breaker.failure(str(error))
        except (FrameError, ArgumentError) as error:  # the latter: no room for our extents
            residency.quarantine(fetch.parcel.row, source.generation, str(error))
        with residency.lock:
            self._promotion.land(fetch)
        fetch.finish()

    def _write_loop(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._writes or self._closing)
                if self._closing:
                    return
                self._changed.wait_for(lambda: not any(self._reads), _COURTESY_S)
                if not self._writes:
                    continue
                batch = [self._writes.popleft() for _ in range(min(_BATCH, len(self._writes)))]
            try:
                self._demotion.write([(row, generation) for _, row, generation in batch])
            finally:
                with self._changed:
                    self._unwritten.difference_update(number for number, _, _ in batch)
                    self._changed.notify_all()

    def _house_loop(self) -> None:
        waited = 0.0
        while True:
            with self._changed:
                if self._changed.wait_for(lambda: self._closing, _CATALOG_S):
                    return
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
        with self._residency.lock:
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
        stripe.breaker.probed(is_well)
        if is_well:
            with self._residency.lock:
                rows = dirty(self._residency)
            self.store(rows, [self._residency.index.generation[row] for row in rows])
        self._probing.discard(number)
