"""From a store into a bundle, and from a bundle into a store.

What goes in is saved as if an engine had computed it: keys are derived from the tokens, encoded
frames are decoded first, and expiry, tags, fidelity, extras and attachments come along.  Saving
never waits for room, so an import stops after each batch until the batch is on disk.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..compression.codec import ATTACHMENT
from .bundle import Bundle, BundleBlock, Progress, decode_into, new_bundle
from .errors import ArgumentError, BundleError, TierError
from .files import Bytes
from .identity import Identity
from .index import DISK, HOST, TIERS
from .keys import Tokens
from .layout import Layout, Part
from .payload import attachments_of
from .plan import State
from .space import Space
from .stats import Stats
from .store import Store
from .units import format_size

BATCH_BYTES = 16 << 20
"""The most that is imported between two waits for the disk; a larger block goes alone."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What went into a bundle; ``lost`` blocks were damaged or left meanwhile."""

    blocks: int
    frames: int
    nbytes: int
    lost: int


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of a bundle's blocks.

    ``stored`` are new, ``known`` were there already, ``expired`` have expired on the way, and for
    ``refused`` there was no room, or not for what they continue.
    """

    blocks: int
    stored: int
    known: int
    expired: int
    refused: int


class _Terms(NamedTuple):
    """What blocks that are saved with one call have in common."""

    fidelity: int
    expiry: float
    tags: tuple[str, ...]
    names: tuple[str, ...]


def host_bytes_for(block_bytes: int) -> int:
    """Host memory in which an import of blocks of this size goes well."""
    return 4 * max(BATCH_BYTES, block_bytes)


def export_bundle(
    store: Store,
    identity: Identity,
    path: Path,
    *,
    prompts: Iterable[Tokens] | None = None,
    replace: bool = False,
    progress: Progress | None = None,
) -> Exported:
    """Write the stored blocks of these prompts, or all of an identity, into a new file.

    Raises BundleError where nothing is stored of them, or the file cannot be written.
    """
    collection = store.collect(identity, prompts)
    if not len(collection):
        raise BundleError("nothing is stored of what the bundle was to have; there is no bundle")
    blocks = 0
    with new_bundle(path, identity, replace=replace) as writer:
        for frames in collection:
            writer.add(frames)
            blocks += 1
            if progress is not None:
                progress(blocks, len(collection))
    return Exported(blocks, writer.frames, writer.nbytes, len(collection) - blocks)


def import_bundle(
    store: Store,
    bundle: Bundle,
    *,
    clock: Callable[[], float] = time.time,
    progress: Progress | None = None,
) -> Imported:
    """Save every block of a bundle that ``check`` has passed.

    ``host_bytes_for`` says what host memory the store should have.  Raises ArgumentError for a
    store that does not write behind, TierError where the disk fails, and BundleError for a bundle
    that no store of this size can hold, and where the file changed since it was checked.
    """
    if store.settings.write != "behind":
        raise ArgumentError("a store that writes nothing to disk takes no bundle")
    _check_size(store, bundle)
    importing = _Importing(store, store.space(bundle.identity), clock)
    for batch in _batches(bundle.blocks(progress), bundle.block_bytes, _batch_bytes(store)):
        importing.save(batch)
    return importing.result


def _check_size(store: Store, bundle: Bundle) -> None:
    disk = next(tier for tier in store.stats().tiers if tier.name == TIERS[DISK])
    if bundle.nbytes > disk.capacity_bytes:
        raise BundleError(
            f"a bundle of {format_size(bundle.nbytes)} does not fit a store with "
            f"{format_size(disk.capacity_bytes)} of disk; raise the setting disk, and open the "
            "store with the program that uses it"
        )


def _batch_bytes(store: Store) -> int:
    """What host memory has room for beside the batch before and what is in its way."""
    host = next(tier for tier in store.stats().tiers if tier.name == TIERS[HOST])
    return min(BATCH_BYTES, host.capacity_bytes // 4)


def _batches(
    blocks: Iterable[BundleBlock], block_bytes: int, limit: int
) -> Iterator[list[BundleBlock]]:
    """Runs of blocks of which each continues the one before, on the same terms.

    Together they have up to ``limit`` bytes, ``block_bytes`` each when they are decoded.
    """
    batch: list[BundleBlock] = []
    nbytes = 0
    for block in blocks:
        size = max(block.nbytes, block_bytes)
        is_next = batch and block.past == batch[-1].past + 1 and _terms(block) == _terms(batch[0])
        if batch and (not is_next or nbytes + size > limit):
            yield batch
            batch, nbytes = [], 0
        batch.append(block)
        nbytes += size
    if batch:
        yield batch


class _Importing:
    """Saves batches in a bundle's order, and remembers the path that leads to the next one."""

    def __init__(self, store: Store, space: Space, clock: Callable[[], float]) -> None:
        self._store = store
        self._space = space
        self._clock = clock
        self._tokens: list[bytes] = []  # of each block on the path
        self._extras: dict[int, bytes] = {}
        self._short = _short(store.stats())
        self.result = Imported(0, 0, 0, 0, 0)

    def save(self, batch: Sequence[BundleBlock]) -> None:
        """Save one batch and wait until it is on disk."""
        first = batch[0].past
        self._step(batch)
        tokens = np.frombuffer(b"".join(self._tokens), "<u4")
        terms = _terms(batch[0])
        ttl_s = terms.expiry - self._clock() if terms.expiry else 0.0
        if terms.expiry and ttl_s <= 0:
            self._count(len(batch), expired=len(batch))
            return
        states = self._space.match(tokens, extras=self._extras).states[:, first:]
        known = int((states == State.READY).all(0).sum())
        stored = self._space.save(
            tokens,
            _BundlePages(self._space.layout, batch),
            start=first * self._space.layout.block_tokens,
            ttl_s=ttl_s,
            tags=terms.tags,
            attachments=_attachments(batch),
            fidelity=terms.fidelity,
            extras=self._extras,
        )
        here = max(0, stored - first)
        written = max(0, here - self._unwritten()) if here else 0
        self._count(len(batch), known=min(known, written), stored=max(0, written - known))

    def _unwritten(self) -> int:
        """Blocks of the last batch that did not get to disk; raises TierError where none can."""
        is_written = self._store.flush()
        stats = self._store.stats()
        degraded = [tier.degraded for tier in stats.tiers if tier.degraded]
        if degraded and not is_written:
            raise TierError(
                f"the disk does not take what is imported: {'; '.join(degraded)}; "
                f"{self.result.stored} blocks were imported before"
            )
        before, self._short = self._short, _short(stats)
        return -(-max(0, self._short - before) // len(self._space.layout.parts))

    def _step(self, batch: Sequence[BundleBlock]) -> None:
        past = batch[0].past
        del self._tokens[past:]
        self._extras = {number: extra for number, extra in self._extras.items() if number < past}
        for block in batch:
            self._tokens.append(block.meta.tokens)
            if block.meta.extras:
                self._extras[block.past] = block.meta.extras

    def _count(self, blocks: int, *, stored: int = 0, known: int = 0, expired: int = 0) -> None:
        old = self.result
        self.result = Imported(
            old.blocks + blocks,
            old.stored + stored,
            old.known + known,
            old.expired + expired,
            old.refused + blocks - stored - known - expired,
        )


class _BundlePages:
    """A batch of a bundle's blocks as if they lay in an engine's memory."""

    def __init__(self, layout: Layout, batch: Sequence[BundleBlock]) -> None:
        self._layout = layout
        self._frames = {
            (frame.header.part, block.past): frame for block in batch for frame in block.frames
        }

    def gather(self, part: Part, blocks: Sequence[int], into: Sequence[Bytes]) -> None:
        """Decode blocks."""
        for block, target in zip(blocks, into, strict=True):
            decode_into(self._frames[part, block], self._layout, target)

    def scatter(
        self, part: Part, blocks: Sequence[int], data: Sequence[Bytes], layers: tuple[int, int]
    ) -> None:
        """Refused: nothing is restored into a bundle."""
        raise BundleError("a bundle is read; nothing is restored into it")


def _short(stats: Stats) -> int:
    """Frames that found no room on disk so far: they wait for it, or had to make way."""
    dropped = stats.counts["dropped_dirty"]
    assert isinstance(dropped, int)
    return stats.dirty_blocks + dropped


def _terms(block: BundleBlock) -> _Terms:
    header = block.frames[0].header
    fidelity = min(frame.header.fidelity for frame in block.frames)
    attached = sum(segment.kind == ATTACHMENT for segment in header.segments)
    return _Terms(fidelity, header.expiry, block.meta.tags, block.meta.names[:attached])


def _attachments(batch: Sequence[BundleBlock]) -> Mapping[str, Sequence[Bytes]]:
    found = [attachments_of(*block.frames[0]) for block in batch]
    return {name: [each[name] for each in found] for name in found[0]}
