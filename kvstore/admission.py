"""What of a batch is to be saved, and where to: the half of a save that is under the lock.

Of each part (a shard of a group) the leading blocks are stored, for no block is without its past.
Those are used, and live on on the new terms; copies that are worse than what comes are replaced.
What follows is new and gets rows, each the child of the one before, and then slots, block by block,
so that where room ends, it ends at the same block in all parts.

A block has its row before its slot: a parent with a child is no victim, so making room for a block
never takes the one that it hangs from.  It may take the end of another part's chain, so what is
stored is counted again in the end.
"""

from collections.abc import Container, Sequence
from itertools import groupby, takewhile, zip_longest
from typing import NamedTuple

from .ghosts import Reason
from .index import NONE
from .molds import Batch, Incoming, Mold, Molds
from .residency import Residency

_AT_ONCE = 256  # rows that have no slots yet


class _Outdone(NamedTuple):
    """A stored copy that is to be replaced."""

    block: int
    part: int
    row: int
    generation: int


class Admission:
    """One batch's frames that are to be filled.  Made with the store's lock held.

    ``stored`` is how many of the prompt's blocks are stored, from the beginning, once the frames
    have arrived; ``replaced`` has the generations of the worse copies that serve until then, by the
    generations of the frames that replace them; ``renewed`` are rows of which more was said than
    their headers on disk know.
    """

    def __init__(self, residency: Residency, molds: Molds, batch: Batch) -> None:
        self.frames: list[Incoming] = []
        self.replaced: dict[int, int] = {}
        self.renewed: list[int] = []
        self._residency = residency
        self._molds = molds
        self._batch = batch
        self._own: Container[int] = batch.extras  # blocks whose molds are their own
        if batch.terms.attachments:
            self._own = range(len(batch.keys))
        self._shared = [molds.shared(part, batch.terms) for part in molds.parts]
        self._fids = [[key + bytes(part) for key in batch.keys] for part in molds.parts]
        self.stored = self._admit()

    def _admit(self) -> int:
        first, count = self._batch.first, len(self._batch.keys)
        leading = self._leading()
        self._use(leading)
        if min(map(len, leading)) < first:
            return min(map(len, leading))  # nobody could reach what follows
        worse: list[_Outdone] = []
        lengths = [self._renew(part, rows, worse) for part, rows in enumerate(leading)]
        if worse:
            end = self._replace(sorted(worse))
            if end < count:
                return end
            lengths = [len(rows) for rows in self._leading()]  # some may have made room
            if min(lengths) < first:
                return min(lengths)
        stored = min(lengths)
        at_once = max(1, _AT_ONCE // len(self._molds.parts))
        for start in range(stored, count, at_once):
            end = min(start + at_once, count)
            self._enlist(range(start, end), lengths)
            lengths = [len(rows) for rows in self._leading()]
            stored = min(lengths)
            if stored < end:
                break
        return stored

    def _leading(self) -> list[list[int]]:
        """For each part the rows of the leading blocks that are stored, or are on their way in."""
        find = self._residency.index.find
        return [list(takewhile(lambda row: row != NONE, map(find, fids))) for fids in self._fids]

    def _use(self, leading: Sequence[Sequence[int]]) -> None:
        """What is stored of the prompt is in use: it is the last to make room for the rest."""
        if any(leading):
            by_block = zip_longest(*leading, fillvalue=NONE)
            self._residency.policy.touch([row for rows in by_block for row in rows if row != NONE])

    def _renew(self, part: int, rows: Sequence[int], worse: list[_Outdone]) -> int:
        """Let what is stored of a part live on, on these terms too; how many blocks still are."""
        residency, index, terms = self._residency, self._residency.index, self._batch.terms
        for block in range(self._batch.first, len(rows)):
            row = rows[block]
            if 0 < index.expiry[row] <= terms.saved:
                residency.remove(row, Reason.EXPIRED)
                return block
            if index.fidelity[row] < terms.fidelity or residency.is_lost(row):
                worse.append(_Outdone(block, part, row, index.generation[row]))
            elif residency.extend(row, terms.expiry, terms.tags):
                self.renewed.append(row)
        return len(rows)

    def _replace(self, worse: Sequence[_Outdone]) -> int:
        """Take slots for better copies; the first block for which there was none, or their end."""
        residency = self._residency
        for block, part, row, generation in worse:
            mold = self._mold(part, block)
            taken = residency.room.take_host(mold.nbytes)
            if not taken or not residency.is_current(row, generation):
                for slot in taken:
                    residency.host.give(slot)
                return block
            residency.generation += 1
            self.replaced[residency.generation] = generation
            self.frames.append(Incoming(block, mold, row, residency.generation, taken[0]))
        return len(self._batch.keys)

    def _enlist(self, blocks: range, lengths: Sequence[int]) -> None:
        """Give rows and slots to the new ones of these blocks, or to the first of them."""
        generations = self._residency.index.generation
        wanted = [
            (block, part, self._mold(part, block))
            for block in blocks
            for part, length in enumerate(lengths)
            if block >= length
        ]
        rows = [iter(self._rows(part, length, blocks)) for part, length in enumerate(lengths)]
        drafts = [(block, mold, next(rows[part])) for block, part, mold in wanted]
        slots = self._take([mold.nbytes for _, mold, _ in drafts])
        for (block, mold, row), slot in zip(drafts, slots, strict=False):
            self.frames.append(Incoming(block, mold, row, generations[row], slot))
        self._residency.room.withdraw([row for _, _, row in reversed(drafts[len(slots) :])])

    def _rows(self, part: int, stored: int, blocks: range) -> list[int]:
        """Rows for a part's new blocks, below the block before."""
        fids, first = self._fids[part], max(stored, blocks.start)
        if first >= blocks.stop:
            return []
        parent = self._residency.index.find(fids[first - 1]) if first else NONE
        return self._residency.enlist(fids[first : blocks.stop], parent)

    def _mold(self, part: int, block: int) -> Mold:
        if block in self._own:
            return self._molds.own(self._molds.parts[part], self._batch, block)
        return self._shared[part]

    def _take(self, sizes: Sequence[int]) -> list[int]:
        """Slots for frames of these sizes, or for the first of them."""
        slots: list[int] = []
        for nbytes, alike in groupby(sizes):
            count = len(list(alike))
            taken = self._residency.room.take_host(nbytes, count)
            slots += taken
            if len(taken) < count:
                break
        return slots
