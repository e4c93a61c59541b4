"""Least recently used leaf first.

Each tier's blocks lie in a ring, the longest unused first.  A touch, root first, moves the blocks
of a prefix to the young end, the root youngest of all, so that tails leave before heads and the
oldest block is nearly always one without a child.

    offer:  take the oldest block.  Has it a child on this tier, set it aside and take the next;
            when the last child leaves, it goes back to the old end: all that stayed was younger.
    pass:   a block that was offered and still is there when the next one is asked for is set aside
            until it is touched.

The ring is four arrays of machine integers, linked by index, grown a step at a time: no operation
costs more than a constant (a block is set aside once for each time that it was put in the ring),
no object belongs to a block (17 bytes do), and nothing is ever rehashed: a dict of a million
entries stops the world for 95 ms when it grows.
"""

from array import array
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from .policy import Action, Hint, Record, Records, Victim

_STEP = 1 << 16  # blocks that a ring grows by
_END = 0  # the node before the oldest and after the youngest; also the parent of roots

# States of a block on a tier.  In the ring are LISTED and OFFERED.
_ABSENT, _LISTED, _OFFERED, _HAS_CHILD, _PASSED = range(5)


class Lru:
    """Offers the leaf that was unused for longest, on each tier by itself; hints are ignored."""

    def __init__(self) -> None:
        self._rings: dict[int, _Ring] = {}

    def add(self, tier: int, records: Sequence[Record]) -> None:
        """Count these blocks as used now; one that was there already is touched."""
        ring = self._rings.get(tier)
        if ring is None:
            ring = self._rings[tier] = _Ring()
        if isinstance(records, Records) and not ring.is_used:
            ring.fill(records.blocks, records.parents)
        else:
            ring.add(records)

    def touch(self, blocks: Sequence[int]) -> None:
        """Count these blocks, root first, as used now on every tier that has them."""
        for ring in self._rings.values():
            ring.touch(blocks)

    def advise(self, hints: Sequence[Hint]) -> None:
        """Ignore what engines say of the future: only use counts."""

    def forget(self, tier: int, blocks: Sequence[int]) -> None:
        """Take these blocks out, in any order; blocks that are not there are passed over."""
        ring = self._rings.get(tier)
        if ring is not None:
            ring.forget(blocks)

    def victims(self, tier: int) -> Iterator[Victim]:
        """Leaves of ``tier``, the longest unused first, to be dropped."""
        ring = self._rings.get(tier)
        if ring is None:
            return
        node = ring.next_leaf(_END)
        while node != _END:
            yield Victim(node - 1, Action.DROP)
            node = ring.next_leaf(node)


class _Ring:
    """One tier's blocks by recency.  Block b is node b + 1; indices are what links hold."""

    def __init__(self) -> None:
        self._younger = array("i", [_END])  # of _END: the oldest
        self._older = array("i", [_END])  # of _END: the youngest
        self._parent = array("i", [_END])
        self._children = array("i", [0])  # that are on this tier
        self._state = bytearray(1)

    @property
    def is_used(self) -> bool:
        """Whether a block was ever put in."""
        return len(self._state) > 1

    def fill(self, blocks: NDArray[np.int32], parents: NDArray[np.int32]) -> None:
        """Put blocks, the youngest first, into a ring that has never been used."""
        size = 1 + _STEP * -(-(int(blocks.max(initial=0)) + 1) // _STEP)
        nodes = blocks + 1
        ring = np.concatenate(([_END], nodes, [_END]))  # from the youngest to the oldest
        younger, older, above = np.zeros((3, size), np.int32)
        younger[ring[1:]] = ring[:-1]
        older[ring[:-1]] = ring[1:]
        above[nodes] = parents + 1
        state = np.zeros(size, np.uint8)
        state[nodes] = _LISTED
        self._younger, self._older, self._parent = map(_integers, (younger, older, above))
        self._children = _integers(np.bincount(parents + 1, minlength=size))
        self._state = bytearray(state.tobytes())

    def add(self, records: Sequence[Record]) -> None:
        """Put blocks at the young end and count them with their parents."""
        for record in records:
            node, parent = record.block + 1, record.parent + 1
            while len(self._state) <= node or len(self._state) <= parent:
                self._grow()
            if self._state[node] == _ABSENT:
                self._state[node] = _PASSED
                self._parent[node] = parent
                self._children[parent] += 1
        self.touch([record.block for record in records])

    def touch(self, blocks: Sequence[int]) -> None:
        """Move blocks to the young end, the last one first; those that are not there stay away."""
        younger, older, state = self._younger, self._older, self._state
        size = len(state)
        youngest = older[_END]
        for block in reversed(blocks):
            node = block + 1
            where = state[node] if node < size else _ABSENT
            if where == _ABSENT:
                continue
            state[node] = _LISTED
            if node == youngest:
                continue
            if where <= _OFFERED:
                before, after = older[node], younger[node]
                younger[before] = after
                older[after] = before
            older[node] = youngest
            younger[youngest] = node
            youngest = node
        younger[youngest] = _END
        older[_END] = youngest

    def forget(self, blocks: Sequence[int]) -> None:
        """Take blocks out; a parent set aside for its children is back when the last one leaves."""
        state, parents, children = self._state, self._parent, self._children
        size = len(state)
        for block in blocks:
            node = block + 1
            where = state[node] if node < size else _ABSENT
            if where == _ABSENT:
                continue
            if where <= _OFFERED:
                self._unlink(node)
            state[node] = _ABSENT
            parent = parents[node]
            left = children[parent] = children[parent] - 1
            if not left and state[parent] == _HAS_CHILD:
                self._link_oldest(parent)

    def next_leaf(self, offered: int) -> int:
        """The oldest node that may leave, or _END; ``offered`` is the one before, passed over."""
        state, children = self._state, self._children
        if state[offered] == _OFFERED:
            self._set_aside(offered, _PASSED)
        node = self._younger[_END]
        while node != _END and children[node]:
            self._set_aside(node, _HAS_CHILD)
            node = self._younger[_END]
        if node != _END:
            state[node] = _OFFERED
        return node

    def _set_aside(self, node: int, state: int) -> None:
        self._unlink(node)
        self._state[node] = state

    def _unlink(self, node: int) -> None:
        before, after = self._older[node], self._younger[node]
        self._younger[before] = after
        self._older[after] = before

    def _link_oldest(self, node: int) -> None:
        oldest = self._younger[_END]
        self._younger[node] = oldest
        self._older[node] = _END
        self._younger[_END] = self._older[oldest] = node
        self._state[node] = _LISTED

    def _grow(self) -> None:
        for links in (self._younger, self._older, self._parent, self._children):
            links.frombytes(bytes(links.itemsize * _STEP))
        self._state.extend(bytes(_STEP))


def _integers(values: NDArray[np.integer]) -> "array[int]":
    column = array("i")
    column.frombytes(values.astype(np.int32).tobytes())
    return column
