"""Least recently used leaf first.

Each tier's blocks lie in a ring, the longest unused first.  A touch, root first, moves the blocks
of a prefix to the young end, the root youngest of all, so that tails leave before heads and the
oldest block is nearly always one without a child.

    leave:  take the oldest block.  Has it a child on this tier, set it aside and take the next;
            when the last child leaves, it goes back to the old end: all that stayed was younger.
    pass:   a block that may not leave when it is asked about is set aside until it is touched.

The ring is linked by block number in flat arrays of machine integers, as long as there may be
blocks: no operation costs more than a constant (a block is set aside once for each time that it was
put in the ring), no object belongs to a block (13 bytes on each tier do), and nothing ever grows.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from .policy import Action, Blocks, Facts, Hint, Many, MayLeave, Victim

_ABSENT, _LISTED, _HAS_CHILD, _PASSED = range(4)
"""States of a block on a tier; only what is listed lies in the ring."""


class Lru:
    """Lets the leaf go that was unused for longest, on each tier by itself; ignores hints."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._rings: dict[int, _Ring] = {}

    def add(self, tier: int, blocks: Blocks | Many) -> None:
        """Count these blocks as used now; one that was there already is touched."""
        ring = self._rings.get(tier)
        if ring is None:
            self._rings[tier] = _Ring(self._facts, np.asarray(blocks, np.int32))
        else:
            ring.add(blocks if isinstance(blocks, Sequence) else blocks.tolist())

    def touch(self, blocks: Blocks) -> None:
        """Count these blocks, root first, as used now on every tier that has them."""
        for ring in self._rings.values():
            ring.touch(blocks)

    def advise(self, hints: Sequence[Hint]) -> None:
        """Ignore what engines say of the future: only use counts."""

    def forget(self, tier: int, blocks: Blocks) -> None:
        """Take these blocks out, in any order; blocks that are not there are passed over."""
        ring = self._rings.get(tier)
        if ring is not None:
            ring.forget(blocks)

    def victims(self, tier: int, may_leave: MayLeave) -> Iterator[Victim]:
        """Leaves of ``tier``, the longest unused first, to be dropped."""
        ring = self._rings.get(tier)
        return ring.victims(may_leave) if ring is not None else iter(())


class _Ring:
    """One tier's blocks by recency, linked by number.

    The last entry of each column is the ring's end: before the oldest, after the youngest.  ROOT,
    being -1, leads to it too: a parent that is on no tier.
    """

    def __init__(self, facts: Facts, blocks: Many) -> None:
        """With the tier's first blocks, the youngest first; they may be a million."""
        self._end = end = len(facts.parents)
        self._parent = facts.parents.data
        younger, older = np.zeros((2, end + 1), np.int32)
        ring = np.concatenate((np.array([end], np.int32), blocks, np.array([end], np.int32)))
        younger[ring[1:]] = ring[:-1]
        older[ring[:-1]] = ring[1:]
        children, state = np.zeros(end + 1, np.int32), np.zeros(end + 1, np.uint8)
        np.add.at(children, facts.parents[blocks], 1)
        state[blocks] = _LISTED
        self._younger, self._older, self._children = younger.data, older.data, children.data
        self._state = state.data

    def add(self, blocks: Blocks) -> None:
        """Put blocks at the young end and count them with their parents."""
        state, parents, children = self._state, self._parent, self._children
        for block in blocks:
            if state[block] == _ABSENT:
                state[block] = _PASSED
                children[parents[block]] += 1
        self.touch(blocks)

    def touch(self, blocks: Blocks) -> None:
        """Move blocks to the young end, the last one first; those that are not there stay away."""
        younger, older, state, end = self._younger, self._older, self._state, self._end
        youngest = older[end]
        for block in reversed(blocks):
            where = state[block]
            if where == _ABSENT or block == youngest:
                continue
            if where == _LISTED:
                before, after = older[block], younger[block]
                younger[before] = after
                older[after] = before
            state[block] = _LISTED
            older[block] = youngest
            younger[youngest] = block
            youngest = block
        younger[youngest] = end
        older[end] = youngest

    def forget(self, blocks: Blocks) -> None:
        """Take blocks out; a parent set aside for its children is back when the last one leaves."""
        state, younger, older = self._state, self._younger, self._older
        for block in blocks:
            where = state[block]
            if where == _ABSENT:
                continue
            if where == _LISTED:
                before, after = older[block], younger[block]
                younger[before] = after
                older[after] = before
            state[block] = _ABSENT
            self._lose_child(self._parent[block])

    def victims(self, may_leave: MayLeave) -> Iterator[Victim]:
        """The oldest leaves that may leave; each is out before it is given."""
        younger, older, children, state = self._younger, self._older, self._children, self._state
        end, parents = self._end, self._parent
        while (block := younger[end]) != end:
            if children[block]:
                verdict = _HAS_CHILD
            else:
                verdict = _ABSENT if may_leave(block, Action.DROP) else _PASSED
            younger[end] = after = younger[block]
            older[after] = end
            state[block] = verdict
            if verdict == _ABSENT:
                self._lose_child(parents[block])
                yield block, Action.DROP

    def _lose_child(self, parent: int) -> None:
        """A child leaves the tier; a parent that waited for it goes to the old end."""
        left = self._children[parent] = self._children[parent] - 1
        if not left and self._state[parent] == _HAS_CHILD:
            end, oldest = self._end, self._younger[self._end]
            self._younger[parent] = oldest
            self._older[parent] = end
            self._younger[end] = self._older[oldest] = parent
            self._state[parent] = _LISTED
