"""What users said of blocks: pins and tags.

Kept apart from the index's columns because few blocks have any.  One thread at a time (the store's
lock).
"""

from collections.abc import Iterable


class Marks:
    """Pins and tags by row."""

    def __init__(self) -> None:
        self.pins: dict[int, float] = {}  # row -> until when
        self._tags: dict[int, tuple[str, ...]] = {}
        self._rows: dict[str, set[int]] = {}

    def __contains__(self, row: object) -> bool:
        return row in self.pins or row in self._tags

    def pin(self, row: int, until: float) -> None:
        """Keep a row until then, or longer where it is pinned for longer."""
        self.pins[row] = max(until, self.pins.get(row, 0.0))

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

    def forget(self, row: int) -> None:
        """The row is gone."""
        self.pins.pop(row, None)
        for tag in self._tags.pop(row, ()):
            rows = self._rows[tag]
            rows.discard(row)
            if not rows:
                del self._rows[tag]
