"""What goes between a slab's files and memory at once: neighbours do, for each I/O has its price.

A transfer of 4 KiB costs as much processor time as half of one of 2 MiB, and behind others' payload
it waits as long.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from .files import Bytes
from .slab import PAGE_BYTES, Extent

NEAR = 16
"""Header slots that are read at once though not all of them are wanted."""
_TOGETHER_BYTES = 8 << 20


class Payload(NamedTuple):
    """One frame's bytes, arrays of whole sectors end to end, and the pages they belong to."""

    extents: Sequence[Extent]
    data: Sequence[Bytes]

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return sum(piece.nbytes for piece in self.data)


def adjoining(payloads: Sequence[Payload]) -> Iterator[tuple[list[int], Payload]]:
    """Payloads in the order of their pages, as one where each ends in the page before the next.

    Yields the numbers of those that go together, and them as one.
    """
    numbers: list[int] = []
    extents: list[Extent] = []
    data: list[Bytes] = []
    end = room = -1  # page behind the last; bytes that may still be added, -1 where none may
    for number in sorted(range(len(payloads)), key=lambda n: payloads[n].extents[0]):
        each, nbytes = payloads[number], payloads[number].nbytes
        if numbers and (each.extents[0][0] != end or nbytes > room):
            yield numbers, Payload(extents, data)
            numbers, extents, data = [], [], []
        if not numbers:
            room = _TOGETHER_BYTES
        numbers.append(number)
        extents += each.extents
        data += each.data
        is_full = nbytes == PAGE_BYTES * sum(count for _, count in each.extents)
        room = room - nbytes if is_full else -1
        end = sum(each.extents[-1])
    if numbers:
        yield numbers, Payload(extents, data)


def placed(payload: Payload) -> Iterator[tuple[int, list[Bytes]]]:
    """One payload's arrays cut along its runs of pages: file offset and arrays of each run."""
    todo = list(reversed(payload.data))
    for page, count in _joined(payload.extents):
        room, part = count * PAGE_BYTES, []
        while room and todo:
            piece = todo.pop()
            if piece.nbytes > room:
                todo.append(piece[room:])
                piece = piece[:room]
            part.append(piece)
            room -= piece.nbytes
        if part:
            yield page * PAGE_BYTES, part


def runs(slots: Iterable[int], longest: int) -> Iterator[range]:
    """Ascending numbers as ranges without gaps."""
    start = end = -1
    for slot in slots:
        if slot != end or end - start == longest:
            if start != end:
                yield range(start, end)
            start = slot
        end = slot + 1
    if start != end:
        yield range(start, end)


def near(slots: Iterable[int]) -> Iterator[list[int]]:
    """Ascending numbers, together those that lie within ``NEAR``."""
    some: list[int] = []
    for slot in slots:
        if some and slot - some[0] >= NEAR:
            yield some
            some = []
        some.append(slot)
    if some:
        yield some


def _joined(extents: Iterable[Extent]) -> Iterator[Extent]:
    """Runs of pages, as one where they adjoin."""
    first = length = 0
    for page, count in extents:
        if length and page != first + length:
            yield first, length
            length = 0
        if not length:
            first = page
        length += count
    if length:
        yield first, length
