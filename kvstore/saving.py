"""SAVE: what an engine computed goes into host memory; the mover takes it from there.

    under the lock      for each block: stored already, or a row and a host slot for it
    without             gather payload into the slots, write headers
    under the lock      publish

Nothing here waits: where no room can be made, the blocks before are stored and the rest is not.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .ghosts import Reason
from .identity import Identity
from .index import NONE
from .keys import tenant_id
from .layout import Part
from .molds import Batch, Mold, Molds, Terms, spread
from .pages import Pages
from .parcel import Parcel
from .residency import Residency


class _Incoming(NamedTuple):
    """One frame between admission and publication."""

    block: int
    mold: Mold
    parcel: Parcel


class _Admission(NamedTuple):
    """A save under way: its molds, the frames to fill, and rows of which only more is said."""

    batch: Batch
    terms: Terms
    molds: Molds
    incoming: list[_Incoming]
    outdated: list[int]


class Saving:
    """Saves batches for one space.  Any thread may call."""

    def __init__(self, residency: Residency, identity: Identity, parts: Sequence[Part]) -> None:
        self._residency = residency
        self._identity = identity
        self._suffixes = [(part, bytes(part)) for part in parts]
        with residency.lock:
            self._tenant = residency.tenant_number(tenant_id(identity.tenant))

    def save(self, batch: Batch, pages: Pages, terms: Terms) -> tuple[int, list[int]]:
        """How many of the prompt's blocks are stored now, and the rows to be written to disk."""
        molds = Molds(self._identity, batch, terms, self._residency.host)
        admission = _Admission(batch, terms, molds, [], [])
        with self._residency.lock:
            self._residency.on_behalf_of = self._tenant
            stored = self._admit(admission)
        is_complete = False
        try:
            self._gather(admission, pages)
            is_complete = True
        finally:
            with self._residency.lock:
                rows = self._publish(admission) if is_complete else self._undo(admission)
        return stored, rows + admission.outdated

    def _admit(self, admission: _Admission) -> int:
        batch = admission.batch
        self._touch(batch)
        for block in range(batch.first, len(batch.keys)):
            for part, suffix in self._suffixes:
                if not self._admit_one(admission, block, part, suffix):
                    return block if block > batch.first else self._stored_before(batch)
        return len(batch.keys)

    def _stored_before(self, batch: Batch) -> int:
        """Blocks before the batch's first that are stored, counted from the beginning."""
        find = self._residency.index.find
        for block in range(batch.first):
            if any(find(batch.keys[block] + suffix) == NONE for _, suffix in self._suffixes):
                return block
        return batch.first

    def _touch(self, batch: Batch) -> None:
        """What is stored of this prompt is in use: it is the last to make room for the rest."""
        suffixes = [suffix for _, suffix in self._suffixes]
        rows = self._residency.index.find_all([k + s for k in batch.keys for s in suffixes])
        stored = [row for row in rows if row != NONE]
        if stored:
            self._residency.policy.touch(stored)

    def _admit_one(self, admission: _Admission, block: int, part: Part, suffix: bytes) -> bool:
        """Whether a frame is stored already, or has a slot now."""
        residency, index = self._residency, self._residency.index
        batch, terms, molds, incoming, outdated = admission
        fid = batch.keys[block] + suffix
        row = index.find(fid)
        if row != NONE and 0 < index.expiry[row] <= terms.saved:
            residency.remove(row, Reason.EXPIRED)
            row = NONE
        if row != NONE and index.fidelity[row] >= terms.fidelity and not residency.is_lost(row):
            if residency.extend(row, terms.expiry, terms.tags):
                outdated.append(row)
            return True
        # looked up anew for each frame: making room for the one before may have evicted it
        parent = index.find(batch.keys[block - 1] + suffix) if block else NONE
        if block and parent == NONE:
            return False  # nobody could reach this block
        mold = molds.mold(part, block)
        if row == NONE:
            parcel = residency.admit(fid, parent, mold.nbytes)
        else:
            parcel = residency.admit_better(row, mold.nbytes)
        if parcel is None:
            return False
        if row == NONE:
            self._describe(parcel.row, terms, mold)
        incoming.append(_Incoming(block, mold, parcel))
        return True

    def _describe(self, row: int, terms: Terms, mold: Mold) -> None:
        residency, index = self._residency, self._residency.index
        index.tokens[row] = mold.pattern.tokens
        index.tenant[row] = self._tenant
        index.fidelity[row] = terms.fidelity
        index.plain[row] = mold.stamp is not None
        index.expiry[row] = terms.expiry
        if terms.expiry:
            residency.limit(row, terms.expiry)
        if terms.tags:
            residency.marks.tag(row, terms.tags)
        if self._identity.is_private:
            index.private.add(row)

    def _gather(self, admission: _Admission, pages: Pages) -> None:
        molds, incoming = admission.molds, admission.incoming
        for part, _ in self._suffixes:
            here = [frame for frame in incoming if frame.mold.part == part]
            if not here:
                continue
            targets = [molds.base_pieces(frame.mold, frame.parcel) for frame in here]
            length = here[0].mold.base.length
            views = [p[0] if len(p) == 1 else np.empty(length, np.uint8) for p in targets]
            pages.gather(part, [frame.block for frame in here], views)
            for view, pieces in zip(views, targets, strict=True):
                if len(pieces) > 1:
                    spread(view, pieces)
        for block, mold, parcel in incoming:
            molds.finish(mold, block, parcel)

    def _publish(self, admission: _Admission) -> list[int]:
        residency, incoming = self._residency, admission.incoming
        rows = residency.arrive([frame.parcel for frame in incoming])
        for _, mold, parcel in incoming:
            if parcel.replaces and residency.is_current(parcel.row, parcel.generation):
                self._describe(parcel.row, admission.terms, mold)
                residency.counters.replaced += 1
        residency.counters.saved += len(rows)
        residency.counters.saved_bytes += sum(frame.parcel.nbytes for frame in incoming)
        return rows

    def _undo(self, admission: _Admission) -> list[int]:
        self._residency.abandon([frame.parcel for frame in admission.incoming])
        return []
