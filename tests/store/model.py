"""A plain model of what a store may and must serve: one entry for each block ever saved."""

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field
from math import inf


@dataclass
class Block:
    """What is known of one block; times are of the store's clock."""

    past: tuple[bytes, ...]  # keys before it in its chain
    may: bool = False
    must: bool = False
    ends_latest: float = inf
    ends_earliest: float = inf
    pinned_until: float = 0.0
    tags: set[str] = field(default_factory=set)  # that it has for certain
    maybe_tags: set[str] = field(default_factory=set)
    is_doubtful: bool = False  # damaged on disk

    def forget(self) -> None:
        """It is gone."""
        self.may = self.must = self.is_doubtful = False
        self.pinned_until = 0.0
        self.tags, self.maybe_tags = set(), set()


class Model:
    """One tenant's blocks by key."""

    def __init__(self) -> None:
        self.blocks: dict[bytes, Block] = {}

    def chain(self, keys: Sequence[bytes]) -> list[Block]:
        """The blocks of a prompt."""
        return [self.blocks.setdefault(k, Block(tuple(keys[:n]))) for n, k in enumerate(keys)]

    def below(self, key: bytes) -> Iterator[Block]:
        """A block and all that continues it."""
        for each, block in self.blocks.items():
            if each == key or key in block.past:
                yield block

    def saved(self, keys: Sequence[bytes], stored: int, *, ends: float) -> None:
        """So many blocks of a prompt are stored now."""
        for block in self.chain(keys)[:stored]:
            block.ends_latest = max(block.ends_latest, ends) if block.may else ends
            block.ends_earliest = ends
            if not (block.must or block.pinned_until > 0):
                block.tags = set()
            block.may = True

    def tagged(self, blocks: Sequence[Block], tags: Set[str]) -> None:
        """These blocks have these tags now."""
        for block in blocks:
            block.tags |= tags
            block.maybe_tags |= tags

    def expire(self, now: float) -> None:
        """Time has passed."""
        for key, block in list(self.blocks.items()):
            if block.may and block.ends_latest <= now:
                block.forget()
            if block.ends_earliest <= now:
                self.doubt(key)
            if block.pinned_until <= now:
                block.pinned_until = 0.0

    def doubt(self, key: bytes) -> None:
        """It may be gone, with what continues it."""
        for block in self.below(key):
            block.must, block.pinned_until = False, 0.0


def prefix(blocks: Sequence[Block], name: str) -> int:
    count = 0
    for block in blocks:
        if not getattr(block, name):
            break
        count += 1
    return count
