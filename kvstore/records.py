"""Reads records of the disk index, some thousands at a time, into the columns of ``Found``.

What is found by headers is brought into the form of records first, so there is one way in.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .disk import RECORD_PREFIX
from .found import FID, FOUND_DTYPE, Found, Names, runs_of
from .frame import FIXED_BYTES
from .headers import (
    EXTENT_DTYPE,
    HEADER_DTYPE,
    Columns,
    Table,
    are_first,
    parse_rows,
    table_of,
)
from .keys import FRAME_ID_BYTES

Batch = tuple[list[bytes], list[bytes]]
"""Frame ids, and the values of their records."""

_FID_DTYPE = np.dtype([("key", "V32"), ("group", "u1"), ("shard", "u1")])
_OWNER_DTYPE = np.dtype(
    {"names": ["owner"], "formats": ["V32"], "offsets": [88], "itemsize": HEADER_DTYPE.itemsize}
)
_OWNER_WORDS = range(88 // 8, 120 // 8)
_SLOT_AT, _STRIPE_AT = 0, 4
_LENGTH_AT = RECORD_PREFIX.size + 20  # the header's own length
_MOST_BYTES = (1 << 32) - 1


class Ground(NamedTuple):
    """A slab whose records are believed."""

    slots: int
    pages: int
    seed: int


class _Records(NamedTuple):
    """Some records of one stripe; ``ends`` is where their headers end and their tags begin."""

    stripe: int
    slots: NDArray[np.uint32]
    fids: list[bytes]
    values: list[bytes]
    table: Table
    ends: NDArray[np.int64]


class Reader:
    """Takes records in; room for ``count`` of them is not touched before it is needed."""

    def __init__(self, count: int) -> None:
        self._owners: dict[bytes, int] = {}
        self._count = 0
        self._table = np.empty(count, FOUND_DTYPE)
        self._ids, self._above = np.empty((2, count), FID)
        self._fids = np.empty(count, np.object_)
        self._tags = np.empty(count, np.object_)
        self._extents: list[NDArray[np.void]] = [np.empty(0, EXTENT_DTYPE)]
        self._runs: list[NDArray[np.int64]] = [np.zeros(1, np.int64)]
        self.strangers: list[bytes] = []  # frame ids whose records are not believed

    def read(self, batches: Iterator[Batch], grounds: Mapping[int, Ground]) -> None:
        """Sort out the records of these slabs, by the number of their stripe."""
        for fids, values in batches:
            self._make_room(len(fids))
            for some in _by_stripe(fids, values):
                ground = grounds.get(some.stripe)
                if ground is None:
                    self.strangers += some.fids
                else:
                    self._take_in(some, ground)

    def found(self) -> Found:
        """All that was read and is believed."""
        ends = np.cumsum(np.concatenate(self._runs))
        return Found(
            self._table[: self._count],
            self._ids[: self._count],
            self._above[: self._count],
            np.concatenate(self._extents),
            ends,
            self._fids[: self._count],
            self._tags[: self._count],
            list(self._owners),
        )

    def _make_room(self, count: int) -> None:
        if self._count + count > len(self._table):
            more = 2 * self._count + count
            self._table = np.concatenate((self._table, np.empty(more, FOUND_DTYPE)))
            self._ids = np.concatenate((self._ids, np.empty(more, FID)))
            self._above = np.concatenate((self._above, np.empty(more, FID)))
            self._fids = np.concatenate((self._fids, np.empty(more, np.object_)))
            self._tags = np.concatenate((self._tags, np.empty(more, np.object_)))

    def _take_in(self, some: _Records, ground: Ground) -> None:
        columns = parse_rows(
            some.table,
            some.ends,
            records=some.values,
            pages=ground.pages,
            slab=ground.seed,
            start=RECORD_PREFIX.size,
        )
        tags, is_text = _tags(some)
        runs = np.diff(columns.ends)
        is_sound = columns.is_sound & is_text & (some.slots < ground.slots) & (runs > 0)
        is_sound &= columns.headers["payload"] <= _MOST_BYTES
        is_sound &= _are(some.fids, columns.headers)
        if not is_sound.all():
            some, columns, tags = self._sift(some, columns, tags, is_sound)
        here = slice(self._count, self._count + len(tags))
        self._count = here.stop
        self._fids[here] = some.fids
        self._tags[here] = tags
        ids = _ids(columns.headers)
        self._ids[here] = ids.view(FID)
        ids["key"] = columns.headers["parent"]
        self._above[here] = ids.view(FID)
        self._fill(self._table[here], columns.headers)
        self._table["stripe"][here] = some.stripe
        self._table["slot"][here] = some.slots
        self._extents.append(columns.extents)
        self._runs.append(np.diff(columns.ends))

    def _sift(
        self, some: _Records, columns: Columns, tags: Names, is_sound: NDArray[np.bool_]
    ) -> tuple[_Records, Columns, Names]:
        """The sound ones; the others' names go to the strangers."""
        numbers = np.flatnonzero(is_sound)
        self.strangers += [some.fids[n] for n in np.flatnonzero(~is_sound).tolist()]
        fids = [some.fids[n] for n in numbers.tolist()]
        extents, ends = runs_of(columns.extents, columns.ends, numbers)
        return (
            some._replace(slots=some.slots[numbers], fids=fids),
            Columns(is_sound[numbers], columns.headers.take(numbers), extents, ends),
            tags[numbers],
        )

    def _fill(self, table: NDArray[np.void], headers: NDArray[np.void]) -> None:
        table["owner"] = self._owner(headers)
        table["is_first"] = are_first(headers)
        for name in ("position", "tokens", "fidelity", "generation", "expiry"):
            table[name] = headers[name]
        table["nbytes"] = headers["payload"]

    def _owner(self, headers: NDArray[np.void]) -> NDArray[np.uint32]:
        """Numbers of the owners, in the order in which they were met; one where all are alike."""
        names = headers.view(_OWNER_DTYPE)["owner"]
        words = headers.view("<u8").reshape(-1, HEADER_DTYPE.itemsize // 8)
        if len(words) and all((words[:, n] == words[0, n]).all() for n in _OWNER_WORDS):
            names = names[:1]
        owners = self._owners
        numbers = [owners.setdefault(name, len(owners)) for name in names.tolist()]
        return np.array(numbers, np.uint32)


def _by_stripe(fids: list[bytes], values: list[bytes]) -> Iterator[_Records]:
    table = table_of(values, RECORD_PREFIX.size + FIXED_BYTES)
    slots = _uint32_at(table, _SLOT_AT)
    ends = RECORD_PREFIX.size + _uint32_at(table, _LENGTH_AT).astype(np.int64)
    stripes = table[:, _STRIPE_AT]
    for stripe in np.flatnonzero(np.bincount(stripes)).tolist():
        here = np.flatnonzero(stripes == stripe)
        if len(here) == len(fids):
            yield _Records(stripe, slots, fids, values, table, ends)
        else:
            names = [fids[n] for n in here.tolist()], [values[n] for n in here.tolist()]
            yield _Records(stripe, slots[here], *names, table[here], ends[here])


def _uint32_at(table: Table, start: int) -> NDArray[np.uint32]:
    column: NDArray[np.uint32] = np.ascontiguousarray(table[:, start : start + 4]).view("<u4")
    return column.reshape(-1)


def _tags(some: _Records) -> tuple[Names, NDArray[np.bool_]]:
    """What stands behind the headers, and whether it is text."""
    tags = np.full(len(some.fids), b"", np.object_)
    is_text = np.ones(len(tags), np.bool_)
    if (some.ends == some.table.shape[1]).all():
        return tags, is_text
    lengths = np.fromiter(map(len, some.values), np.int64, len(tags))
    for number in np.flatnonzero(lengths > some.ends).tolist():
        tags[number] = tail = some.values[number][some.ends[number] :]
        try:
            tail.decode()
        except UnicodeDecodeError:
            is_text[number] = False
    return tags, is_text


def _ids(headers: NDArray[np.void]) -> NDArray[np.void]:
    ids = np.empty(len(headers), _FID_DTYPE)
    for name in ("key", "group", "shard"):
        ids[name] = headers[name]
    return ids


def _are(fids: Sequence[bytes], headers: NDArray[np.void]) -> NDArray[np.bool_]:
    """Whether the headers are those of these frame ids."""
    expected = _ids(headers)
    are_whole = set(map(len, fids)) <= {FRAME_ID_BYTES}
    if are_whole and b"".join(fids) == expected.tobytes():
        return np.ones(len(fids), np.bool_)
    same = (a == b for a, b in zip(fids, expected.view(FID).tolist(), strict=True))
    return np.fromiter(same, np.bool_, len(fids))
