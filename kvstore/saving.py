"""SAVE: what an engine computed goes into host memory; the mover takes it from there.

    under the lock      rows and host slots for what is not stored (``admission.py``)
    without             gather payload into the slots, write headers
    under the lock      publish

A batch stays a batch: rows, slots and headers are columns (``Parcels``), and frames that are alike
go through as one ``Lot``.  Nothing here waits: where no room can be made, the blocks before are
stored and the rest is not.
"""

from collections.abc import Sequence
from itertools import groupby

import numpy as np

from .admission import Admission, Intake
from .files import Bytes
from .identity import Identity
from .keys import tenant_id
from .layout import Part
from .molds import Batch, Lot, Molds, Terms, spread
from .pages import Pages
from .residency import Residency


class Saving:
    """Saves batches for one space.  Any thread may call."""

    def __init__(self, residency: Residency, identity: Identity, parts: Sequence[Part]) -> None:
        self._residency = residency
        self._identity = identity
        self._molds = Molds(identity, residency.host)
        self._parts = parts
        with residency.lock:
            self._tenant = residency.tenant_number(tenant_id(identity.tenant))

    def save(self, batch: Batch, pages: Pages) -> tuple[int, list[int]]:
        """How many of the prompt's blocks are stored now, and the rows to be written to disk."""
        with self._residency.lock:
            self._residency.room.on_behalf_of = self._tenant
            admission = Admission(self._residency, self._molds, self._parts, batch)
            for lot in _lots(admission.intakes):
                if not lot.parcels.are_better:
                    self._describe(lot, batch.terms)
        is_complete = False
        try:
            for intake in admission.intakes:
                self._fill(intake.lots, batch, pages)
            is_complete = True
        finally:
            with self._residency.lock:
                end = self._publish if is_complete else self._undo
                rows = end(admission.intakes, batch.terms)
        return admission.stored, rows + admission.outdated

    def _fill(self, lots: Sequence[Lot], batch: Batch, pages: Pages) -> None:
        """Gather the payload, and write what stands beside it."""
        for part, same in groupby(sorted(lots, key=_part), _part):
            blocks, spans = [], []
            for lot in same:
                base = lot.mold.base
                blocks += lot.blocks
                spans += self._residency.host.spans(lot.parcels.slots, base.offset, base.length)
            views = [s[0] if len(s) == 1 else _joint(s) for s in spans]
            pages.gather(part, blocks, views)
            for view, span in zip(views, spans, strict=True):
                if len(span) > 1:
                    spread(view, span)
        for lot in lots:
            self._molds.finish(lot, batch)

    def _describe(self, lot: Lot, terms: Terms) -> None:
        """Say in the index what frames are: new ones, or better copies that have arrived."""
        residency, rows = self._residency, lot.parcels.rows
        known = residency.index.columns
        known.tokens[rows] = lot.mold.pattern.tokens
        known.tenant[rows] = self._tenant
        known.fidelity[rows] = terms.fidelity
        known.plain[rows] = lot.mold.is_plain
        known.expiry[rows] = terms.expiry
        if terms.expiry or terms.tags:
            for row in rows.tolist():
                residency.limit(row, terms.expiry)
                residency.marks.tag(row, terms.tags)
        if self._identity.is_private:
            residency.index.private.update(rows.tolist())

    def _publish(self, intakes: Sequence[Intake], terms: Terms) -> list[int]:
        residency, counters = self._residency, self._residency.counters
        rows = [row for intake in intakes for row in residency.arrive(intake.parcels)]
        for lot in _lots(intakes):
            counters.saved_bytes += lot.mold.nbytes * len(lot.blocks)
            if lot.parcels.are_better:
                arrived = lot.parcels.only(residency.are_current(lot.parcels))
                self._describe(lot._replace(parcels=arrived), terms)
                counters.replaced += len(arrived.rows)
        counters.saved += len(rows)
        return rows

    def _undo(self, intakes: Sequence[Intake], _: Terms) -> list[int]:
        for intake in reversed(intakes):
            self._residency.abandon(intake.parcels)
        return []


def _lots(intakes: Sequence[Intake]) -> list[Lot]:
    return [lot for intake in intakes for lot in intake.lots]


def _part(lot: Lot) -> Part:
    return lot.mold.part


def _joint(pieces: Sequence[Bytes]) -> Bytes:
    """A buffer as long as the pieces together."""
    return np.empty(sum(piece.nbytes for piece in pieces), np.uint8)
