"""The store: tiers, index, policy and mover, put together, and the verbs that need no identity.

    with Store(Settings.load()) as store:
        space = store.space(identity)

One process has a directory at a time; another one that opens it gets ``StoreBusyError``.
"""

import logging
import os
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from ..compression.codecs import CODECS
from ..eviction.policies import POLICIES
from .collecting import Collection
from .demote import Demotion
from .dropping import Dropping, Receipt
from .drops import Drops
from .errors import IdentityError, StoreClosedError, TierError
from .explain import Explaining
from .files import BlockFile, DirectFile, OpenFile
from .ghosts import Ghosts
from .identity import Identity
from .index import DISK, HOST, TIERS, Index
from .keys import Tokens, chain, tenant_id
from .layout import Layout
from .mover import Mover
from .opening import SPARE_ROWS, disk_slots, lock_directory, open_disk, open_host, refuge
from .promotion import Promotion
from .recovery import adopt, recover
from .residency import Residency
from .room import Room
from .scrub import Progress, Report, Scrub
from .settings import Settings
from .space import Shared, Space
from .stats import Counters, Stats, TierStats
from .survey import audit, dirty, usage
from .tombstones import Kind, Tombstone

_log = logging.getLogger("kvstrata")

_IDENTITY = b"identity:"
_CLOSE_S = 20.0
_ROUNDS = 2  # of a flush: a full disk may have room once what was being written has settled
_MEMORY_PER_GHOST = 64 << 10  # a ghost costs 400 bytes, and is worth less than a block


class Store:
    """Tiers under one directory.  Every verb may be called from any thread.

    ``clock`` gives seconds since the epoch; ``open_file`` opens slab files; ``host_fd`` adopts the
    host slab of a dead process; ``host_bytes`` makes it that large, whatever ``memory`` says
    (``inspection.py``).  Raises ``SettingsError`` where the settings do not fit this
    machine and ``StoreBusyError`` where another process has the directory.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        clock: Callable[[], float] = time.time,
        open_file: OpenFile | None = None,
        host_fd: int | None = None,
        host_bytes: int | None = None,
    ) -> None:
        self.settings = settings or Settings.load()
        self.settings.check()
        _log.setLevel(self.settings.log_level)
        self._clock = clock
        self.counters = Counters()
        self._layouts: dict[bytes, Layout] = {}
        self._spaces: dict[bytes, Space] = {}
        self._is_closed = False
        with ExitStack() as undo:
            if self.settings.disk:
                undo.callback(os.close, lock_directory(self.settings.dir))
            self._host = open_host(self.settings, host_fd, host_bytes)
            undo.callback(self._host.close)
            self._disk = open_disk(self.settings, open_file or self._direct_file, clock)
            undo.callback(self._disk.close)
            self._residency = self._make_residency()
            drops = Drops(self._disk, refuge(self._disk))
            self._residency.generation = self._residency.buried_up_to = drops.generation
            self.recovered = recover(self._residency, self._disk, drops.living)
            if host_fd is not None:
                self.recovered += adopt(self._residency, drops.living)
            self._dropping = Dropping(self._residency, drops)
            self._promotion = Promotion(self._residency)
            self._mover = self._make_mover()
            undo.callback(self._mover.close)
            self._resources = undo.pop_all()
        self._shared = Shared(
            self._residency,
            self._promotion,
            self._mover,
            self._dropping,
            Explaining(self._residency, self.identities, policy=self.settings.policy),
            self.settings,
            self._check_open,
        )
        _log.info("opened %s: %d blocks found again", self.settings.dir, self.recovered)

    @property
    def host_fd(self) -> int:
        """The descriptor of the host slab, which another process may adopt; -1 on macOS."""
        return self._host.fd

    def space(self, identity: Identity) -> Space:
        """One identity's view; the same object for equal identities."""
        self._check_open()
        space = self._spaces.get(identity.root)
        if space is None:
            self._layouts[identity.root[:16]] = identity.layout
            self._remember(identity)
            space = self._spaces.setdefault(identity.root, Space(identity, self._shared))
        return space

    def identities(self) -> list[Identity]:
        """The identities that have had a space here, also in earlier lives of the store."""
        known = {space.identity for space in list(self._spaces.values())}
        if self._disk.stripes:
            for text in self._disk.catalog.facts(_IDENTITY).values():
                try:
                    known.add(Identity.from_json(text))
                except IdentityError as error:
                    _log.debug("an identity in the index is not understood: %s", error)
        return sorted(known, key=lambda identity: identity.root)

    def flush(self, timeout_s: float | None = None) -> bool:
        """Return when all that was saved before is on disk and synced.

        False where some of it could not be written (a medium is switched off, or full of leased
        blocks, or ``write`` is ``"none"``) or the time ran out.
        """
        self._check_open()
        if not self._disk.takes_writes:
            self._mover.drain(timeout_s)  # checksums are taken behind the save, too
            return False
        with self._residency.lock:
            last = self._residency.generation
        for _ in range(_ROUNDS):
            rows = self._unwritten(last)
            if not rows:
                return self._sync()
            self._mover.store(rows)
            if not self._mover.drain(timeout_s):
                self._sync()
                return False
        return self._sync() and not self._unwritten(last)

    def expire(self) -> int:
        """Remove what has expired now; how many blocks."""
        self._check_open()
        return self._residency.expire()

    def drop_tenant(self, tenant: str, *, overwrite: bool = False) -> Receipt:
        """Drop everything that a tenant has, of every identity.

        ``overwrite`` zeroes the payload too, which takes as long as writing it did.
        """
        self._check_open()
        subject = tenant_id(tenant)
        residency = self._residency

        def rows() -> list[int]:
            number = residency.tenant_number(subject)
            everything = residency.index.rows()
            here = np.asarray(residency.index.tenant)[everything] == number
            found: list[int] = everything[here].tolist()
            return found

        return self._dropping.drop(
            lambda generation, _: [Tombstone(Kind.TENANT, subject, generation, self._clock())],
            rows,
            overwrite=overwrite,
        )

    def collect(self, identity: Identity, prompts: Iterable[Tokens] | None = None) -> Collection:
        """The stored blocks of these prompts, or all of this identity, in chain order, to be read.

        Raises ArgumentError for tokens that are no uint32.
        """
        self._check_open()
        step = identity.layout.block_tokens
        chains = None if prompts is None else [chain(identity.root, p, step) for p in prompts]
        return Collection(self._residency, identity, chains)

    def verify(self, progress: Progress | None = None) -> Report:
        """Read everything that is stored and forget what is damaged.

        ``progress`` is called with the frames that are done and those in all.
        """
        self._check_open()
        return Scrub(self._residency).run(progress)

    def stats(self) -> Stats:
        """The store at this moment."""
        self._check_open()
        residency = self._residency
        with residency.lock:
            host = self._host.slab
            tiers = [TierStats(TIERS[HOST], *usage(residency, HOST, [host]), degraded="")]
            if self._disk.stripes:
                slabs = [stripe.slab for stripe in self._disk.stripes]
                degraded = "; ".join(
                    f"{stripe.directory}: {stripe.breaker.reason}"
                    for stripe in self._disk.stripes
                    if stripe.breaker.is_open
                )
                tiers.append(TierStats(TIERS[DISK], *usage(residency, DISK, slabs), degraded))
            return Stats(
                tiers=tuple(tiers),
                blocks=residency.index.live,
                dirty_blocks=len(dirty(residency)),
                pinned_blocks=len(residency.marks.pins),
                ghosts=len(residency.ghosts),
                counts=asdict(self.counters),
            )

    def audit(self) -> None:
        """Raise AssertionError unless free and used add up on every tier and parents are there."""
        with self._residency.lock:
            audit(self._residency)

    def close(self) -> None:
        """Write what is dirty, sync, and let go of the directory.  Idempotent."""
        if self._is_closed:
            return
        if self.settings.write == "behind" and self._disk.takes_writes:
            self.flush(_CLOSE_S)
        else:
            self._sync()  # what was forgotten is to be gone from the index, too
        self._is_closed = True
        self._resources.close()
        _log.info("closed %s", self.settings.dir)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _unwritten(self, last: int) -> list[int]:
        """Rows up to this generation whose copies on disk are missing or outdated."""
        with self._residency.lock:
            index = self._residency.index
            return [row for row in dirty(self._residency) if index.generation[row] <= last]

    def _sync(self) -> bool:
        try:
            self._disk.sync()
        except TierError as error:
            _log.warning("flush: %s", error)
            return False
        return True

    def _check_open(self) -> None:
        if self._is_closed:
            raise StoreClosedError("the store was closed")

    def _remember(self, identity: Identity) -> None:
        if self._disk.stripes and not identity.is_private:
            try:
                self._disk.catalog.state({_IDENTITY + identity.root[:16]: identity.to_json()})
            except TierError as error:
                _log.warning("the identity is not remembered: %s", error)

    def _direct_file(self, path: Path) -> BlockFile:
        return DirectFile(path, direct=self.settings.direct_io == "auto")

    def _make_residency(self) -> Residency:
        index = Index(self._host.slab.slots + disk_slots(self.settings) + SPARE_ROWS)
        room = Room(
            index=index,
            host=self._host,
            disk=self._disk,
            policy=POLICIES[self.settings.policy](index.facts()),
            ghosts=Ghosts(
                min(self.settings.ghosts, self.settings.memory // _MEMORY_PER_GHOST), since=0.0
            ),
            counters=self.counters,
            clock=self._clock,
        )
        return Residency(room)

    def _make_mover(self) -> Mover:
        codec = CODECS[self.settings.codec]
        return Mover(
            self._residency,
            self._promotion,
            demotion=Demotion(self._residency, codec=codec, layouts=self._layouts),
            settle=self._dropping.settle,
            readers=self.settings.readers,
            writers=self.settings.writers,
        )
