"""What of a batch is to be saved, and where to: the half of a save that is under the lock.

Of each part (a shard of a group) the leading blocks are stored, for no block is without its past.
Those are used, and live on on the new terms; copies that are worse than what comes are replaced.
What follows is new and gets rows, each the child of the one before, and then slots, block by block,
so that where room ends, it ends at the same block in all parts.

A row of a block comes before its slot: a parent with a child is no victim, so making room for a
block never takes the block before it.
"""

from collections.abc import Sequence
from itertools import takewhile, zip_longest
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .ghosts import Reason
from .index import NONE, Rows
from .layout import Part
from .molds import Batch, Lot, Mold, Molds
from .parcel import Parcels
from .residency import Residency

_AT_ONCE = 256  # blocks that have rows before they have slots


class Intake(NamedTuple):
    """Frames that were admitted together, in the order of their blocks, and sorted by mold."""

    parcels: Parcels
    lots: list[Lot]


class _Worse(NamedTuple):
    """A stored copy that is to be replaced."""

    block: int
    part: int
    row: int
    generation: int


class _Draft(NamedTuple):
    """New frames of one mold that have rows."""

    mold: Mold
    blocks: NDArray[np.intp]
    rows: Rows


class _Frames(NamedTuple):
    """Drafts side by side: of each frame the number of its draft, and what a slot is taken for."""

    draft: NDArray[np.intp]
    blocks: NDArray[np.intp]
    rows: Rows
    nbytes: NDArray[np.uint32]


class Admission:
    """One batch's frames that are to be filled.  Made and used with the store's lock held.

    ``stored`` is how many of the prompt's blocks are stored, from the beginning, once the intakes
    have arrived; ``outdated`` are rows of which more was said than their headers on disk know.
    """

    def __init__(
        self, residency: Residency, molds: Molds, parts: Sequence[Part], batch: Batch
    ) -> None:
        self.intakes: list[Intake] = []
        self.outdated: list[int] = []
        self._residency = residency
        self._molds = molds
        self._parts = parts
        self._batch = batch
        self._fids = [
            [key + suffix for key in batch.keys] for suffix in [bytes(part) for part in parts]
        ]
        self.stored = self._admit()

    def _admit(self) -> int:
        first, count = self._batch.first, len(self._batch.keys)
        leading = self._leading()
        self._use(leading)
        if min(map(len, leading)) < first:
            return min(map(len, leading))  # nobody could reach what follows
        worse: list[_Worse] = []
        lengths = [self._renew(part, rows, worse) for part, rows in enumerate(leading)]
        if worse:
            end = self._replace(sorted(worse))
            if end < count:
                return end
            lengths = [len(rows) for rows in self._leading()]  # some may have made room
            if min(lengths) < first:
                return min(lengths)
        for start in range(min(lengths), count, _AT_ONCE):
            end = min(start + _AT_ONCE, count)
            reached = self._enlist(range(start, end), lengths)
            if reached < end:
                return reached
        return count

    def _leading(self) -> list[list[int]]:
        """For each part the rows of the leading blocks that are stored, or are on their way in."""
        find = self._residency.index.find
        return [list(takewhile(lambda row: row != NONE, map(find, fids))) for fids in self._fids]

    def _use(self, leading: Sequence[Sequence[int]]) -> None:
        """What is stored of the prompt is in use: it is the last to make room for the rest."""
        if any(leading):
            by_block = zip_longest(*leading, fillvalue=NONE)
            self._residency.policy.touch([row for rows in by_block for row in rows if row != NONE])

    def _renew(self, part: int, rows: Sequence[int], worse: list[_Worse]) -> int:
        """Let what is stored of a part live on, on these terms too; how many blocks still are."""
        residency, index, terms = self._residency, self._residency.index, self._batch.terms
        for block in range(self._batch.first, len(rows)):
            row = rows[block]
            if 0 < index.expiry[row] <= terms.saved:
                residency.remove(row, Reason.EXPIRED)
                return block
            if index.fidelity[row] < terms.fidelity or residency.is_lost(row):
                worse.append(_Worse(block, part, row, index.generation[row]))
            elif residency.extend(row, terms.expiry, terms.tags):
                self.outdated.append(row)
        return len(rows)

    def _replace(self, worse: Sequence[_Worse]) -> int:
        """Take slots for better copies; the first block for which there was none, or their end."""
        slots: list[int] = []
        molds: list[Mold] = []
        for block, part, row, generation in worse:
            alone = range(block, block + 1)
            mold = self._molds.sort(self._parts[part], alone, self._batch)[0][0]
            taken = self._residency.room.take_host([mold.nbytes])
            if not taken or not self._residency.is_current(row, generation):
                for slot in taken:
                    self._residency.host.give(slot)
                break
            slots += taken
            molds.append(mold)
        count = len(slots)
        if count:
            self._add_better(worse[:count], molds, slots)
        return worse[count].block if count < len(worse) else len(self._batch.keys)

    def _add_better(
        self, worse: Sequence[_Worse], molds: Sequence[Mold], slots: Sequence[int]
    ) -> None:
        blocks = np.array([each.block for each in worse])
        parcels = Parcels(
            np.array([each.row for each in worse]),
            self._residency.generations(len(worse)),
            np.array([each.generation for each in worse], np.uint64),
            np.array(slots),
            np.array([mold.nbytes for mold in molds], np.uint32),
        )
        kinds = list(dict.fromkeys(molds))
        whose = np.array([kinds.index(mold) for mold in molds])
        self.intakes.append(Intake(parcels, _lots(kinds, whose, blocks, parcels)))

    def _enlist(self, blocks: range, lengths: Sequence[int]) -> int:
        """Give new frames rows and slots; the first block that has not all, or their end."""
        residency = self._residency
        drafts = [
            draft
            for part, length in enumerate(lengths)
            for draft in self._drafts(part, range(max(blocks.start, length), blocks.stop))
        ]
        frames = _by_block(drafts)
        slots = residency.room.take_host(frames.nbytes.tolist())
        count = len(slots)
        for row in frames.rows[count:][::-1].tolist():
            residency.index.remove(row)
        reached = int(frames.blocks[count]) if count < len(frames.blocks) else blocks.stop
        if not count:
            return reached
        rows = frames.rows[:count]
        generations = residency.index.columns.generation[rows]
        parcels = Parcels(
            rows, generations, generations, np.array(slots, np.intp), frames.nbytes[:count]
        )
        molds = [draft.mold for draft in drafts]
        lots = _lots(molds, frames.draft[:count], frames.blocks[:count], parcels)
        self.intakes.append(Intake(parcels, lots))
        return reached

    def _drafts(self, part: int, blocks: range) -> list[_Draft]:
        """Rows for new blocks of a part, below the block before."""
        if not blocks:
            return []
        fids, index = self._fids[part], self._residency.index
        parent = index.find(fids[blocks.start - 1]) if blocks.start else NONE
        rows = self._residency.enlist(fids[blocks.start : blocks.stop], parent)
        numbers = np.arange(blocks.start, blocks.stop)
        return [
            _Draft(mold, numbers[run], rows[run])
            for mold, run in self._molds.sort(self._parts[part], blocks, self._batch)
        ]


def _by_block(drafts: Sequence[_Draft]) -> _Frames:
    """Drafts in the order of their blocks."""
    lengths = [len(draft.rows) for draft in drafts]
    draft = np.repeat(np.arange(len(drafts)), lengths)
    blocks = np.concatenate([draft.blocks for draft in drafts])
    rows = np.concatenate([draft.rows for draft in drafts])
    if len(drafts) > 1:
        order = np.argsort(blocks, kind="stable")
        draft, blocks, rows = draft[order], blocks[order], rows[order]
    nbytes = np.array([draft.mold.nbytes for draft in drafts], np.uint32)
    return _Frames(draft, blocks, rows, nbytes[draft])


def _lots(
    molds: Sequence[Mold], whose: NDArray[np.intp], blocks: NDArray[np.intp], parcels: Parcels
) -> list[Lot]:
    """Parcels by mold; ``whose`` has of each the number of its mold."""
    if len(molds) == 1:
        return [Lot(molds[0], blocks.tolist(), parcels)]
    lots = []
    for number, mold in enumerate(molds):
        mine = whose == number
        if mine.any():
            lots.append(Lot(mold, blocks[mine].tolist(), parcels.only(mine)))
    return lots
