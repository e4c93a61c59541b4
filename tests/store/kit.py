"""What the store's tests share: small layouts, prompts whose bytes follow from their keys, a clock.

The bytes of a block are a function of its key, its part and its fidelity, so a block in the wrong
place, of the wrong prompt or of the wrong generation is as visible as a flipped bit.
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from kvstrata.kvstore.files import OpenFile
from kvstrata.kvstore.hit import Hit
from kvstrata.kvstore.identity import Identity
from kvstrata.kvstore.layout import EXACT, Group, Layout, Part
from kvstrata.kvstore.settings import Settings
from kvstrata.kvstore.space import Space
from kvstrata.kvstore.stats import Stats, TierStats
from kvstrata.kvstore.store import Store

Bytes = NDArray[np.uint8]

MIB = 1 << 20
ROUGH, COARSE = 100, 50
"""Fidelities weaker than EXACT that tests save with."""

FULL = Layout((Group((0, 1, 2, 3), heads=2, head_dim=32, dtype="float32"),), block_tokens=64)
WINDOW = Layout(
    (
        Group((0, 1), heads=2, head_dim=64, dtype="float32"),
        Group((2, 3, 4, 5), heads=2, head_dim=64, dtype="bfloat16", kind="window", window=100),
    ),
    block_tokens=64,
)
SHARDS = Layout(
    (Group((0, 1, 2, 3), heads=4, head_dim=32, dtype="float32"),), block_tokens=64, shards=2
)
LATENT = Layout(
    (Group((0, 1, 2, 3), heads=1, head_dim=512, dtype="bfloat16", planes=1),), block_tokens=32
)
LAYOUTS = {"full": FULL, "window": WINDOW, "shards": SHARDS, "latent": LATENT}
"""All of 128 KiB a frame, of which a slab has one for each of its header slots."""

FRAME_BYTES = 128 << 10


class Clock:
    """Seconds since the epoch, as the test says."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


@dataclass(frozen=True)
class Scene:
    """A directory, a clock, and how the stores in it are set up; opened as often as need be."""

    dir: Path
    clock: Clock
    memory: int = 8 * MIB
    disk: int = 32 * MIB
    stripes: tuple[Path, ...] = ()
    write: Literal["behind", "none"] = "behind"
    codec: str = "raw"
    deadline: float = 30.0
    readers: int = 4
    writers: int = 1
    ghosts: int = 65_536

    def open(self, open_file: OpenFile | None = None) -> Store:
        """A store in the directory."""
        settings = Settings(
            dir=self.dir,
            memory=self.memory,
            disk=self.disk,
            stripes=self.stripes,
            write=self.write,
            codec=self.codec,
            deadline=self.deadline,
            readers=self.readers,
            writers=self.writers,
            ghosts=self.ghosts,
        )
        return Store(settings, clock=self.clock, open_file=open_file)


def identity(
    layout: Layout = FULL, *, model: int = 1, tenant: str = "", weights: str = ""
) -> Identity:
    """A model's identity; another ``model`` number is another model."""
    return Identity(
        weights=weights or f"{model:064x}",
        layout=layout,
        config="test",
        producer="test",
        tenant=tenant,
        salt=tenant,
    )


def prompt(
    name: int, blocks: int, *, layout: Layout = FULL, after: Sequence[int] = ()
) -> list[int]:
    """Tokens of so many full blocks and a bit, behind ``after``; no two names share any."""
    first = 100_000 * (name + 1)
    return [*after, *range(first, first + blocks * layout.block_tokens + 3)]


def content(key: bytes, part: Part, nbytes: int, fidelity: int = EXACT) -> Bytes:
    """The bytes of a block: no two of its words are alike, and none is in another block."""
    seed = int.from_bytes(key[:8], "little") ^ part.group << 8 ^ part.shard << 4 ^ fidelity << 16
    words = np.arange(-(-nbytes // 8), dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    words += np.uint64(seed)
    return words.view(np.uint8)[:nbytes]


def smooth(key: bytes, part: Part, nbytes: int, fidelity: int = EXACT) -> Bytes:
    """The bytes of a block of normally distributed 16-bit floats, as an encoder likes them."""
    seed = int.from_bytes(key[:8], "little") ^ hash((part, fidelity))
    values = np.random.default_rng(abs(seed)).standard_normal(nbytes // 2, np.float32)
    return (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)


class KeyedPages:
    """An engine's pages: gives every block of a prompt the bytes that its key asks for.

    What is scattered is kept and compared by ``check``.
    """

    def __init__(
        self,
        space: Space,
        tokens: Sequence[int],
        *,
        fidelity: int = EXACT,
        extras: Mapping[int, bytes] | None = None,
        fill: Callable[[bytes, Part, int, int], Bytes] = content,
    ) -> None:
        self.layout = space.layout
        self.keys = space.match(tokens, extras=extras).keys
        self.gathered = 0
        self._fidelity = fidelity
        self._fill = fill
        self._restored: dict[tuple[Part, int], Bytes] = {}

    def gather(self, part: Part, blocks: Sequence[int], into: Sequence[Bytes]) -> None:
        """What the engine computed."""
        for block, target in zip(blocks, into, strict=True):
            target[:] = self._fill(self.keys[block], part, target.nbytes, self._fidelity)
            self.gathered += 1

    def scatter(
        self, part: Part, blocks: Sequence[int], data: Sequence[Bytes], layers: tuple[int, int]
    ) -> None:
        """Keep what came."""
        step = self.layout.frame_bytes(part.group, self.layout.block_tokens)
        step //= len(self.layout.groups[part.group].layers)
        span = slice(layers[0] * step, layers[1] * step)
        for block, source in zip(blocks, data, strict=True):
            whole = self._restored.setdefault(
                (part, block),
                np.zeros(self.layout.frame_bytes(part.group, self.layout.block_tokens), np.uint8),
            )
            whole[span] = source[span]

    def check(self, tokens: int, claimed: int = EXACT) -> None:
        """Raise AssertionError unless all that ``tokens`` need is here, no worse than claimed."""
        blocks = tokens // self.layout.block_tokens
        for group in range(len(self.layout.groups)):
            reach = self.layout.window_blocks(group)
            for shard in range(self.layout.group_shards(group)):
                for block in range(max(0, blocks - reach) if reach else 0, blocks):
                    self._check_one(Part(group, shard), block, claimed)

    def _check_one(self, part: Part, block: int, claimed: int) -> None:
        found = self._restored.get((part, block))
        assert found is not None, f"block {block} of {part} was not restored"
        for fidelity in (EXACT, ROUGH, COARSE):
            if np.array_equal(found, self._fill(self.keys[block], part, found.nbytes, fidelity)):
                assert fidelity >= claimed, f"block {block} of {part} is {fidelity}, not {claimed}"
                return
        raise AssertionError(f"block {block} of {part} has wrong bytes")


def save(
    space: Space,
    tokens: Sequence[int],
    *,
    fidelity: int = EXACT,
    ttl_s: float | None = None,
    tags: Iterable[str] = (),
    derived_from: Hit | None = None,
) -> int:
    """Save a prompt; how many of its blocks are stored."""
    pages = KeyedPages(space, tokens, fidelity=fidelity)
    return space.save(
        tokens, pages, fidelity=fidelity, ttl_s=ttl_s, tags=tags, derived_from=derived_from
    )


def restore(space: Space, tokens: Sequence[int], *, at_most: int | None = None) -> int:
    """Restore a prompt and compare every byte; the tokens that were restored."""
    pages = KeyedPages(space, tokens)
    with space.hold(space.match(tokens), at_most=at_most) as hit:
        restored = hit.load(pages)
        pages.check(restored, hit.fidelity)
    return restored


def frames_of(layout: Layout, blocks: int) -> int:
    """Frames that so many blocks are."""
    return blocks * sum(layout.group_shards(group) for group in range(len(layout.groups)))


def restored_from_disk(space: Space, tokens: Sequence[int]) -> int:
    """Restore a prompt whole and compare every byte; the frames that were read from disk for it."""
    pages = KeyedPages(space, tokens)
    with space.hold(space.match(tokens)) as hit:
        restored = hit.load(pages)
        pages.check(restored, hit.fidelity)
        assert restored == len(tokens) // space.layout.block_tokens * space.layout.block_tokens
        return hit.from_disk


def fill_memory(store: Store, space: Space, *, name: int = 900) -> None:
    """Save other prompts, and have them on disk, until all that is older has left host memory."""
    for number in range(tier(store.stats(), "host").capacity_bytes // FRAME_BYTES + 1):
        save(space, prompt(name + number, 1, layout=space.layout))
        assert number % 8 or store.flush()
    assert store.flush()


def tier(stats: Stats, name: str) -> TierStats:
    """One tier's line."""
    return next(each for each in stats.tiers if each.name == name)


def count(store: Store, name: str) -> int:
    """A running total; the sum of the tiers where it is kept for each."""
    value = store.stats().counts[name]
    return value if isinstance(value, int) else sum(value)


def eventually(holds: Callable[[], bool], *, within_s: float = 15.0) -> None:
    """Wait for what a background thread does; AssertionError where it does not come."""
    end = time.monotonic() + within_s
    pause = threading.Event()
    while not holds():
        assert time.monotonic() < end, "what was waited for did not happen"
        pause.wait(0.005)


def expect_no_lease(store: Store) -> None:
    """Nobody has a place in memory; AssertionError where that lasts longer than a write does."""
    eventually(lambda: tier(store.stats(), "host").leased == 0)


class Crowd(AbstractContextManager["Crowd"]):
    """Threads that are joined at the end of the block, where the first failure is raised again."""

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []
        self._errors: list[BaseException] = []

    def start(self, work: Callable[[], object]) -> None:
        """Run ``work`` on a thread of its own."""
        thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._threads.append(thread)
        thread.start()

    def join(self, within_s: float = 60.0) -> None:
        """Wait for all; AssertionError where one does not end."""
        end = time.monotonic() + within_s
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        if self._errors:
            raise self._errors[0]
        assert not any(thread.is_alive() for thread in self._threads), "a thread hangs"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.join()

    def _run(self, work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - handed to the thread that joins
            self._errors.append(error)
