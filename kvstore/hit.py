"""Leased blocks of a prompt, on their way into an engine's pages.

A hit leases the host slots of the blocks that it restores; blocks that lie on disk are being read
into theirs.  ``load`` scatters what has arrived while the rest is still on its way.  A block that
is lost, damaged or late shortens the hit to the next restorable length; it never raises.
"""

import time
from collections.abc import Callable, Iterator
from itertools import chain
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np

from ..compression.codec import Block
from .errors import CodecError, FrameError
from .fetch import Fetch
from .files import Bytes
from .index import DISK, HOST
from .layout import EXACT, Layout, Part
from .pages import Pages
from .payload import attachments_of, decode, joined
from .plan import needed, restorable
from .promotion import Promotion
from .residency import Residency

_BATCH = 16
_FIRST = Part(0, 0)

Leases = dict[Part, dict[int, "Lease"]]
"""What a hit holds, by part and block."""


class Lease(NamedTuple):
    """One frame that a hit holds: its host slot, and the read that fills it, if one does."""

    row: int
    generation: int
    slot: int
    nbytes: int
    is_plain: bool
    fidelity: int
    fetch: Fetch | None


class Hit:
    """Blocks that stay where they are until the hit is closed; a context manager.

    ``tokens`` is what may be restored, and after ``load`` what was; ``fidelity`` the weakest of the
    blocks.  One thread at a time calls a hit; several hits may hold the same blocks.
    """

    def __init__(  # noqa: PLR0913 - what a lease is made of
        self,
        residency: Residency,
        promotion: Promotion,
        leases: Leases,
        *,
        layout: Layout,
        blocks: int,
        deadline_s: float,
        is_last: Callable[[], bool],
    ) -> None:
        self._residency = residency
        self._promotion = promotion
        self._layout = layout
        self._leases = leases
        self._blocks = blocks
        self._deadline_s = deadline_s
        self._is_last = is_last
        self._is_closed = False
        self._lengths = {p: layout.frame_bytes(p.group, layout.block_tokens) for p in leases}
        self.fidelity = min((lease.fidelity for lease in self._all()), default=EXACT)

    @property
    def tokens(self) -> int:
        """Tokens that this hit restores."""
        return self._blocks * self._layout.block_tokens

    @property
    def from_disk(self) -> int:
        """Frames that had to be read from disk for this hit."""
        return sum(lease.fetch is not None for lease in self._all())

    def load(self, pages: Pages, *, layers: tuple[int, int] | None = None) -> int:
        """Scatter the blocks into an engine's pages; the tokens that are restored.

        ``layers`` is a half-open range of positions within each group, None for all.  What lies
        beyond the returned length may have been written and must not be used.
        """
        deadline = time.monotonic() + self._deadline_s
        bad: set[tuple[Part, int]] = set()
        for part in self._leases:
            span = layers or (0, len(self._layout.groups[part.group].layers))
            for batch in self._batches(part, deadline, bad):
                self._scatter(part, batch, pages, span=span, bad=bad)
        if bad:
            self._shorten(bad)
        self._count()
        return self.tokens

    def attachments(self, block: int, part: Part = _FIRST) -> dict[str, Bytes]:
        """What was saved beside a block, by name; empty where it was lost.  Copies."""
        lease = self._leases[part][block]
        deadline = time.monotonic() + self._deadline_s
        if lease.fetch is not None and not self._arrived(lease.fetch, deadline):
            return {}
        pieces = self._residency.host.pieces(lease.slot, lease.nbytes)
        try:
            return attachments_of(self._residency.leased_header(lease.slot), pieces)
        except FrameError as error:
            self._residency.quarantine(lease.row, lease.generation, str(error))
            return {}

    def close(self) -> None:
        """End the leases."""
        if not self._is_closed and self._is_last():
            self._is_closed = True
            with self._residency.lock:
                rows, slots = [n.row for n in self._all()], [n.slot for n in self._all()]
                self._residency.release_all(rows, slots)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _all(self) -> Iterator[Lease]:
        return chain.from_iterable(here.values() for here in self._leases.values())

    def _batches(
        self, part: Part, deadline: float, bad: set[tuple[Part, int]]
    ) -> Iterator[list[tuple[int, Lease]]]:
        """Blocks of a part in order, as many at once as have arrived; the bad ones are left out."""
        batch: list[tuple[int, Lease]] = []
        here = self._leases[part]
        for block in needed(self._layout, part, self._blocks):
            lease = here[block]
            fetch = lease.fetch
            if len(batch) == _BATCH or (batch and fetch is not None and not fetch.is_done):
                yield batch
                batch = []
            if fetch is None or self._arrived(fetch, deadline):
                batch.append((block, lease))
            else:
                bad.add((part, block))
        if batch:
            yield batch

    def _arrived(self, fetch: Fetch, deadline: float) -> bool:
        if fetch.wait(max(0.0, deadline - time.monotonic())):
            return fetch.is_good
        with self._residency.lock:
            self._promotion.late(fetch)
        return False

    def _scatter(
        self,
        part: Part,
        batch: list[tuple[int, Lease]],
        pages: Pages,
        *,
        span: tuple[int, int],
        bad: set[tuple[Part, int]],
    ) -> None:
        blocks, data = [], []
        for block, lease in batch:
            try:
                data.append(self._bytes(part, lease, span))
                blocks.append(block)
            except (FrameError, CodecError) as error:
                bad.add((part, block))
                self._residency.quarantine(lease.row, lease.generation, str(error))
        if blocks:
            pages.scatter(part, blocks, data, span)

    def _bytes(self, part: Part, lease: Lease, layers: tuple[int, int]) -> Bytes:
        host = self._residency.host
        length = self._lengths[part]
        if (lease.fetch or lease).is_plain:
            if lease.nbytes < length:
                raise FrameError(f"a base of at most {lease.nbytes} bytes where {length} belong")
            return joined(host.span(lease.slot, 0, length))
        pieces = host.pieces(lease.slot, lease.nbytes)
        header = self._residency.leased_header(lease.slot)
        shape = self._layout.frame_shape(part.group, self._layout.block_tokens)
        block = Block(self._layout.groups[part.group], shape, np.empty(length, np.uint8))
        decode(header, pieces, block, layers=layers)
        return block.data

    def _shorten(self, bad: set[tuple[Part, int]]) -> None:
        parts = list(self._leases)
        ready = np.zeros((len(parts), self._blocks), np.bool_)
        for number, part in enumerate(parts):
            for block in range(self._blocks):
                is_held = block in self._leases[part]
                ready[number, block] = is_held and (part, block) not in bad
        lengths = restorable(self._layout, parts, ready)
        self._blocks = lengths[-1] if lengths else 0
        with self._residency.lock:
            self._residency.counters.failed_loads += 1

    def _count(self) -> None:
        counters = self._residency.counters
        read = [lease.nbytes for lease in self._all() if lease.fetch is not None]
        kept = [lease.nbytes for lease in self._all() if lease.fetch is None]
        with self._residency.lock:
            counters.loaded_tokens += self.tokens
            for tier, sizes in ((HOST, kept), (DISK, read)):
                counters.loaded[tier] += len(sizes)
                counters.loaded_bytes[tier] += sum(sizes)
