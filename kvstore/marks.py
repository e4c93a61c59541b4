"""What users said of blocks: pins, tags, and when they end.

Kept apart from the index's columns because few blocks have any.  One thread at a time (the store's
lock).
"""

from collections.abc import Iterable, Iterator
from heapq import heapify, heappop, heappush

Due = tuple[float, int, int]
"""When, row, generation."""


class Marks:
    """Pins, tags and due times by row."""

    def __init__(self) -> None:
        self.pins: dict[int, float] = {}  # row -> until when
        self._tags: dict[int, tuple[str, ...]] = {}
        self._rows: dict[str, set[int]] = {}
        self._due: list[Due] = []

    def __contains__(self, row: object) -> bool:
        return row in self.pins or row in self._tags

    def pin(self, row: int, generation: int, until: float) -> None:
        """Keep a row until then, or longer where it is pinned for longer."""
        self.pins[row] = max(until, self.pins.get(row, 0.0))
        heappush(self._due, (until, row, generation))

    def remind(self, row: int, generation: int, when: float) -> None:
        """Let ``due`` name the row then."""
        heappush(self._due, (when, row, generation))

    def remind_all(self, dues: Iterable[Due]) -> None:
        """Let ``due`` name many rows, each when its time comes."""
        self._due.extend(dues)
        heapify(self._due)

    def due(self, now: float) -> Iterator[tuple[int, int]]:
        """Rows and generations whose pin or life may have ended, each once."""
        while self._due and self._due[0][0] <= now:
            _, row, generation = heappop(self._due)
            yield row, generation

    def tag(self, row: int, tags: Iterable[str]) -> bool:
        """Add tags to a row; whether it had not all of them."""
        before = self._tags.get(row, ())
        after = tuple(sorted({*before, *tags}))
        if after == before:
            return False
        self._tags[row] = after
        for tag in after:
            self._rows.setdefault(tag, set()).add(row)
        return True

    def tags_of(self, row: int) -> tuple[str, ...]:
        """The tags of a row, sorted."""
        return self._tags.get(row, ())

    def tagged(self, tag: str) -> frozenset[int]:
        """The rows with a tag."""
        return frozenset(self._rows.get(tag, ()))

    def forget(self, row: int) -> bool:
        """The row is gone; whether it had tags."""
        self.pins.pop(row, None)
        if row not in self._tags:
            return False
        for tag in self._tags.pop(row):
            rows = self._rows[tag]
            rows.discard(row)
            if not rows:
                del self._rows[tag]
        return True
