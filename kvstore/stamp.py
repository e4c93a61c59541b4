"""The headers of one save: all alike but for a few fields, so only those are written for each.

Making a header from its fields costs 9 us.  A stamp is made once for all blocks that are alike and
kept between saves; pressing it copies it for each block and fills in the fields that differ, column
by column.  Offsets are those of docs/format.md.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from .files import Bytes
from .frame import EXTENT_BYTES, FIXED_BYTES, Header, encode
from .segments import ROW_BYTES

_COVERED_AT = 16  # where the checksum's bytes begin
_COUNT_BYTES = 4  # of the tokens, before them


class Imprints(NamedTuple):
    """What tells headers of one stamp apart, side by side, and the times that they share."""

    keys: Sequence[bytes]
    parents: Sequence[bytes]
    positions: NDArray[np.int64]
    generations: NDArray[np.uint64]
    extents: NDArray[np.int64]  # [n, runs, 2]
    tokens: NDArray[np.void]  # packed, an item for each header
    saved: float
    expiry: float


class Stamp:
    """Headers whose segments, tags and number of runs are those of ``pattern``.

    Its meta segment, which has as many tokens in each, lies inline or in the payload.  Any thread
    may press it.
    """

    def __init__(self, pattern: Header, slab: int) -> None:
        data = encode(pattern, slab)
        self._template = np.frombuffer(data, np.uint8)
        self._slab = slab
        self._salt = pattern.group << 8 | pattern.shard
        runs = len(pattern.extents)
        self._end = FIXED_BYTES + ROW_BYTES * len(pattern.segments) + EXTENT_BYTES * runs
        self._has_meta = bool(pattern.inline)
        fields = {
            "checksum": ("<u8", 8),
            "key": ("V32", 24),
            "parent": ("V32", 56),
            "position": ("<u8", 136),
            "generation": ("<u8", 144),
            "expiry": ("<f8", 152),
            "saved": ("<f8", 160),
            "extents": (f"({runs},2)<u4", self._end - EXTENT_BYTES * runs),
        }
        if self._has_meta:
            fields["meta_checksum"] = ("<u8", FIXED_BYTES + 32)
            fields["tokens"] = (f"V{4 * pattern.tokens}", self._end + _COUNT_BYTES)
        self._fields = np.dtype(
            {
                "names": list(fields),
                "formats": [form for form, _ in fields.values()],
                "offsets": [offset for _, offset in fields.values()],
                "itemsize": len(data),
            }
        )

    def press(self, imprints: Imprints) -> Bytes:
        """The headers with their inline bytes, uint8 ``[n, byte]``."""
        count = len(imprints.keys)
        headers = np.empty((count, self._fields.itemsize), np.uint8)
        headers[:] = self._template
        fields = headers.view(self._fields)[:, 0]
        keys = b"".join(imprints.keys)
        fields["key"] = np.frombuffer(keys, "V32")
        fields["parent"] = np.frombuffer(b"".join(imprints.parents), "V32")
        fields["position"] = imprints.positions
        fields["generation"] = imprints.generations
        fields["expiry"] = imprints.expiry
        fields["saved"] = imprints.saved
        fields["extents"] = imprints.extents
        flat = headers.reshape(-1).data
        if self._has_meta:
            fields["tokens"] = imprints.tokens
            seeds = np.frombuffer(keys, "<u8")[::4] ^ np.uint64(self._salt)  # as frame.checksum's
            fields["meta_checksum"] = self._checksums(flat, self._end, None, seeds.tolist())
        fields["checksum"] = self._checksums(flat, _COVERED_AT, self._end, [self._slab] * count)
        return headers

    def _checksums(
        self, flat: "memoryview[int]", start: int, end: int | None, seeds: Sequence[int]
    ) -> NDArray[np.uint64]:
        """Checksums of the bytes ``start`` .. ``end`` of each header."""
        size = self._fields.itemsize
        length = (size if end is None else end) - start
        starts = range(start, size * len(seeds), size)
        sums = [
            xxh3_64_intdigest(flat[at : at + length], seed)
            for at, seed in zip(starts, seeds, strict=True)
        ]
        return np.array(sums, np.uint64)
