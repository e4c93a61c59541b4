"""The frames that an earlier life left, side by side: columns, a number for each frame.

A million headers as objects are a gigabyte and eight seconds.  As columns they are 120 MB for the
second that it takes to decide, for all at once, which of them count.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .chains import NONE, Numbers
from .headers import spans
from .keys import FRAME_ID_BYTES

Names = NDArray[np.object_]
"""Byte strings; an array of them is nothing that the garbage collector looks through."""

FID = np.dtype(f"V{FRAME_ID_BYTES}")
FOUND_DTYPE = np.dtype(
    [
        ("owner", "<u4"), ("is_first", "?"), ("position", "<u8"), ("tokens", "<u4"),
        ("fidelity", "u1"), ("generation", "<u8"), ("expiry", "<f8"), ("nbytes", "<u4"),
        ("stripe", "u1"), ("slot", "<u4"),
    ]
)  # fmt: skip
"""What is kept of a header, beside names: the owner's number, payload bytes, where."""

Ids = NDArray[np.void]
"""Frame ids side by side, [n] of 34 bytes."""

_SOME = 1 << 16


@dataclass(frozen=True, slots=True)
class Found:
    """``n`` frames; whoever is named by a number is named by it in all columns."""

    table: NDArray[np.void]  # FOUND_DTYPE [n]
    ids: Ids
    above: Ids  # their parents'
    extents: NDArray[np.void]  # EXTENT_DTYPE [all runs]
    ends: NDArray[np.int64]  # [n + 1]: frame i has the runs ends[i]..ends[i + 1]
    fids: Names  # [n]: the ids once more
    tags: Names  # [n]: UTF-8, with a zero byte between two
    owners: Sequence[bytes]  # root and tenant, 16 bytes each

    def __len__(self) -> int:
        return len(self.table)

    def take(self, numbers: NDArray[np.intp]) -> "Found":
        """These frames, in this order."""
        if np.array_equal(numbers, np.arange(len(self))):
            return self
        extents, ends = runs_of(self.extents, self.ends, numbers)
        return Found(
            self.table.take(numbers),
            self.ids.take(numbers),
            self.above.take(numbers),
            extents,
            ends,
            self.fids.take(numbers),
            self.tags.take(numbers),
            self.owners,
        )

    def tags_of(self, number: int) -> tuple[str, ...]:
        """A frame's tags."""
        joined: bytes = self.tags[number]
        return tuple(joined.decode().split("\0")) if joined else ()

    @property
    def tagged(self) -> list[int]:
        """Numbers of the frames with tags."""
        numbers: list[int] = np.flatnonzero(self.tags.astype(np.bool_)).tolist()
        return numbers

    def parents(self) -> Numbers:
        """The number of each frame's parent, of any generation; NONE where it is not here.

        Neither is a frame that does not stand before its child.
        """
        parents = locate(self.above, self.ids)
        positions = self.table["position"]
        is_before = (parents != NONE) & (positions[parents] < positions)
        return np.where(is_before, parents, NONE).astype(np.int32)

    def newest(self) -> NDArray[np.bool_]:
        """Which frames are the newest of their id."""
        order = np.argsort(self.table["generation"], kind="stable")
        last = dict(zip(self.fids[order].tolist(), order.tolist(), strict=True))
        is_newest = np.zeros(len(self), np.bool_)
        is_newest[list(last.values())] = True
        return is_newest


def locate(ids: Ids, among: Ids) -> Numbers:
    """Where each frame id stands in ``among``, at any of its places; NONE where it does not.

    They are found by a part of their keys, as numbers, and then compared; a dict of so many is five
    times as slow, for it is larger than the processor's caches.
    """
    hashes = _hashes(among)
    order = np.argsort(hashes, kind="stable")
    hashes = hashes[order]
    found = np.full(len(ids), NONE, np.int32)
    for start in range(0, len(ids), _SOME):  # for fresh memory costs more than what is done in it
        some = slice(start, start + _SOME)
        for left, at in _candidates(_hashes(ids[some]), hashes):
            candidates = order[at]
            is_same = among.take(candidates) == ids[some].take(left)
            found[some][left[is_same]] = candidates[is_same]
    return found


def _candidates(
    wanted: NDArray[np.uint64], hashes: NDArray[np.uint64]
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Places among ``wanted`` and where the same number is in sorted ``hashes``.

    A second time only for numbers that are there twice.
    """
    turn = _turn(wanted)
    at = np.empty(len(wanted), np.intp)
    at[turn] = np.searchsorted(hashes, wanted[turn])
    left = np.arange(len(wanted))
    while True:
        left = left[at[left] < len(hashes)]
        left = left[hashes[at[left]] == wanted[left]]
        if not len(left):
            return
        yield left, at[left]
        at[left] += 1


def _turn(wanted: NDArray[np.uint64]) -> NDArray[np.intp]:
    """An order in which neighbours are found near each other: sorted by all but the last bits.

    The last bits carry the positions, for numbers are sorted four times as fast as positions.
    """
    positions = np.uint64((1 << len(wanted).bit_length()) - 1)
    marked = wanted & ~positions | np.arange(len(wanted), dtype=np.uint64)
    return (np.sort(marked) & positions).astype(np.intp)


def runs_of(
    extents: NDArray[np.void], ends: NDArray[np.int64], numbers: NDArray[np.intp]
) -> tuple[NDArray[np.void], NDArray[np.int64]]:
    """The runs of some frames, and where each frame's end."""
    lengths = np.diff(ends)[numbers]
    behind = np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths)))
    return extents.take(spans(ends[numbers], lengths)), behind


def _hashes(ids: Ids) -> NDArray[np.uint64]:
    """A number for each frame id, in the index's order; two have the same one by accident only."""
    octets = ids.view(np.uint8).reshape(-1, FID.itemsize)
    heads = np.ascontiguousarray(octets[:, :8]).view(">u8").reshape(-1).astype(np.uint64)
    return heads ^ (octets[:, -2].astype(np.uint64) << np.uint64(8) | octets[:, -1])
