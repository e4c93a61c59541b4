"""SAVE: what an engine computed goes into host memory; the mover takes it from there.

    under the lock      rows and host slots for what is not stored (``admission.py``)
    without             gather payload into the slots, write headers
    under the lock      publish

Nothing here waits: where no room can be made, the blocks before are stored and the rest is not.
"""

from collections.abc import Sequence

import numpy as np

from .admission import Admission
from .files import Bytes
from .identity import Identity
from .index import HOST
from .keys import tenant_id
from .molds import Batch, Incoming, Molds, Terms, spread
from .pages import Pages
from .residency import Landing, Residency


class Saving:
    """Saves batches for one space.  Any thread may call."""

    def __init__(self, residency: Residency, identity: Identity) -> None:
        self._residency = residency
        self._identity = identity
        self._molds = Molds(identity, residency.host)
        with residency.lock:
            self._tenant = residency.tenant_number(tenant_id(identity.tenant))

    def save(self, batch: Batch, pages: Pages) -> tuple[int, list[int]]:
        """How many of the prompt's blocks are stored now, and the rows to be written to disk."""
        residency = self._residency
        with residency.lock:
            residency.room.on_behalf_of = self._tenant
            admission = Admission(residency, self._molds, batch)
            new = [f for f in admission.frames if f.generation not in admission.replaced]
            self._describe(new, batch.terms)
        is_complete = False
        try:
            self._gather(admission.frames, pages)
            self._molds.finish(admission.frames, batch)
            is_complete = True
        finally:
            if not is_complete:
                with residency.lock:
                    residency.abandon(_landings(admission.frames))
        with residency.lock:
            rows = self._publish(admission, batch.terms)
        return admission.stored, rows + admission.renewed

    def _gather(self, frames: Sequence[Incoming], pages: Pages) -> None:
        host = self._residency.host
        for part in self._molds.parts:
            mine = [frame for frame in frames if frame.mold.part == part]
            if not mine:
                continue
            bases = [(frame.slot, frame.mold.base) for frame in mine]
            spans = [host.span(slot, base.offset, base.length) for slot, base in bases]
            views = [span[0] if len(span) == 1 else _joint(span) for span in spans]
            pages.gather(part, [frame.block for frame in mine], views)
            for view, span in zip(views, spans, strict=True):
                if len(span) > 1:
                    spread(view, span)

    def _describe(self, frames: Sequence[Incoming], terms: Terms) -> None:
        """Say in the index what frames are."""
        residency, index = self._residency, self._residency.index
        for _, mold, row, _, _ in frames:
            index.tokens[row] = mold.pattern.tokens
            index.tenant[row] = self._tenant
            index.fidelity[row] = terms.fidelity
            index.plain[row] = mold.is_plain
            index.expiry[row] = terms.expiry
            index.nbytes[HOST][row] = mold.nbytes
        if terms.expiry or terms.tags:
            for frame in frames:
                residency.limit(frame.row, terms.expiry)
                residency.marks.tag(frame.row, terms.tags)
        if self._identity.is_private:
            index.private.update(frame.row for frame in frames)

    def _publish(self, admission: Admission, terms: Terms) -> list[int]:
        residency, counters = self._residency, self._residency.counters
        if admission.replaced:
            self._supersede(admission, terms)
        rows = residency.arrive(_landings(admission.frames))
        nbytes = residency.index.nbytes[HOST]
        counters.saved += len(rows)
        counters.saved_bytes += sum(nbytes[row] for row in rows)
        return rows

    def _supersede(self, admission: Admission, terms: Terms) -> None:
        residency = self._residency
        for frame in admission.frames:
            worse = admission.replaced.get(frame.generation)
            if worse is not None and residency.is_current(frame.row, worse):
                expiry = residency.index.expiry[frame.row]
                residency.room.supersede(frame.row, frame.generation)
                self._describe([frame], terms)
                residency.lengthen(frame.row, expiry)
                residency.counters.replaced += 1


def _landings(frames: Sequence[Incoming]) -> list[Landing]:
    return [(frame.row, frame.generation, frame.slot) for frame in frames]


def _joint(pieces: Sequence[Bytes]) -> Bytes:
    """A buffer as long as the pieces together."""
    return np.empty(sum(piece.nbytes for piece in pieces), np.uint8)
