"""One identity's view of a store: the verbs that engines use.

    plan = space.match(tokens)                 what is stored, nothing leased
    with space.hold(plan, owner) as hit:       leased
        hit.load(pages)                        copied into the engine
    space.save(tokens, pages)                  what the engine computed

Every verb may be called from any thread.  Bookkeeping happens under the store's lock, copying and
I/O never do.
"""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from typing import NamedTuple

import numpy as np

from . import keys
from .dropping import Dropping, Receipt
from .errors import ArgumentError
from .explain import Explaining, Explanation
from .hit import Hit
from .identity import Identity
from .index import NONE
from .keys import KEY_BYTES, Tokens, tenant_id
from .layout import EXACT
from .loading import Loading
from .molds import Attachments, Batch, Terms
from .mover import Mover
from .pages import Pages
from .plan import Plan
from .promotion import Promotion
from .residency import Residency
from .saving import Saving
from .settings import Settings
from .tombstones import Kind, Tombstone, tag_subject

Extras = Mapping[int, bytes] | None
"""By block number, bytes that also enter that block's key: hashes of images and the like."""

_FOREVER = 1 << 62
_TAG_BYTES = 256


class Shared(NamedTuple):
    """What all spaces of a store have in common."""

    residency: Residency
    promotion: Promotion
    mover: Mover
    dropping: Dropping
    explaining: Explaining
    settings: Settings
    check_open: Callable[[], None]  # raises StoreClosedError


class Space:
    """What one identity has in a store.  Made by ``Store.space``."""

    def __init__(self, identity: Identity, shared: Shared) -> None:
        self.identity = identity
        self.layout = identity.layout
        self.root = identity.root
        self._shared = shared
        self._residency = shared.residency
        self._mover = shared.mover
        self._parts = self.layout.parts
        self._loading = Loading(shared.residency, shared.promotion, self.layout, self._parts)
        self._saving = Saving(self._residency, identity)
        self._held: dict[str, tuple[Hit, int]] = {}
        self._holding = threading.Lock()

    def match(self, tokens: Tokens, *, extras: Extras = None) -> Plan:
        """What is stored of a prompt: every restorable length.  Leases nothing.

        Raises ArgumentError for tokens that are no uint32.
        """
        return self._loading.match(self._keys(tokens, extras), len(tokens))

    def hold(self, plan: Plan, owner: str = "", *, at_most: int | None = None) -> Hit:
        """Lease what restoring the plan's longest length, up to ``at_most`` tokens, needs.

        Reads from disk begin at once.  The hit is shorter than the plan where blocks left since, or
        do not fit into memory.  Holds of one ``owner`` (engine id, request id) are one hit, closed
        with the last of them.
        """
        self._shared.check_open()
        at_most = _FOREVER if at_most is None else at_most
        if not owner:
            return self._hold(plan, at_most, lambda: True)
        with self._holding:
            hit, joined = self._held.get(owner) or (None, 0)
            if hit is None:
                hit = self._hold(plan, at_most, lambda: self._leave(owner))
            self._held[owner] = hit, joined + 1
            return hit

    def save(  # noqa: PLR0913 - a save's terms are many, and each of them has a default
        self,
        tokens: Tokens,
        pages: Pages,
        *,
        start: int = 0,
        ttl_s: float | None = None,
        tags: Iterable[str] = (),
        derived_from: Hit | None = None,
        attachments: Attachments | None = None,
        fidelity: int = EXACT,
        extras: Extras = None,
    ) -> int:
        """Store the full blocks of ``tokens`` from token ``start`` on; how many blocks are stored.

        ``pages`` is asked for the blocks that are not stored yet.  The count is of blocks from the
        beginning that are stored now; it is less than asked where no room can be made, and the call
        never waits for room.  ``derived_from`` is the hit that the computation attended to: its
        fidelity is inherited.  ``attachments`` are arrays of uint8 by name, one for each block from
        ``start`` on, that are kept beside the blocks.
        """
        if start < 0 or start % self.layout.block_tokens:
            raise ArgumentError(
                f"start={start} is not a multiple of block_tokens={self.layout.block_tokens}"
            )
        packed = keys.uint32_tokens(tokens)
        chain = self._keys(packed, extras)
        first = start // self.layout.block_tokens
        _check_attachments(attachments or {}, len(chain) - first)
        expiry, saved = self._life(ttl_s)
        terms = Terms(
            saved=saved,
            fidelity=_checked_fidelity(fidelity, derived_from),
            expiry=expiry,
            tags=_checked(tags),
            attachments=attachments or {},
        )
        batch = Batch(chain, packed.tobytes(), extras or {}, first, terms)
        stored, rows = self._saving.save(batch, pages)
        self._write(rows)
        return stored

    def pin(self, tokens: Tokens, seconds: float, *, extras: Extras = None) -> int:
        """Keep a prompt's stored blocks from being evicted for so long; how many blocks."""
        if not seconds > 0:
            raise ArgumentError(f"seconds={seconds}: a pin ends, in more than 0 seconds")
        until = self._residency.clock() + seconds
        return self._each_stored(tokens, extras, lambda row: self._residency.pin(row, until))

    def unpin(self, tokens: Tokens, *, extras: Extras = None) -> int:
        """End the pins of a prompt's stored blocks; how many blocks."""
        return self._each_stored(tokens, extras, self._residency.unpin)

    def tag(self, tokens: Tokens, tags: Iterable[str], *, extras: Extras = None) -> int:
        """Add tags to a prompt's stored blocks; how many blocks."""
        tags, changed = _checked(tags), []

        def add(row: int) -> None:
            if self._residency.tag(row, tags):
                changed.append(row)

        count = self._each_stored(tokens, extras, add)
        self._write(changed)
        return count

    def prefetch(self, tokens: Tokens, *, extras: Extras = None) -> int:
        """Begin to bring a prompt's blocks into host memory; how many reads were started."""
        plan = self._loading.plan(self._keys(tokens, extras), len(tokens))
        held = self._loading.hold(plan, _FOREVER)
        if held.fetches:
            self._mover.load(held.fetches)
        with self._residency.lock:
            for here in held.leases.values():
                for lease in here.values():
                    self._residency.release(lease.row, lease.slot)
        return len(held.fetches)

    def explain(self, tokens: Tokens, *, extras: Extras = None) -> Explanation:
        """Why no more of a prompt would be restored than ``match`` says."""
        packed = keys.uint32_tokens(tokens)
        plan = self._loading.plan(self._keys(packed, extras), len(packed))
        return self._shared.explaining.explain(self.identity, plan, packed)

    def drop(
        self,
        *,
        prefix: Tokens | None = None,
        blocks: Sequence[bytes] = (),
        tag: str | None = None,
        overwrite: bool = False,
        extras: Extras = None,
    ) -> Receipt:
        """Drop a prefix with all that continues it, blocks by key, or this tenant's tag, for good.

        The last full block of ``prefix`` and everything computed after it goes; ``blocks`` are keys
        of blocks, likewise with what continues them; a ``tag`` is looked for in every identity of
        the tenant.  One of the three is given.  ``overwrite`` zeroes the payload too.  Returns when
        nothing can bring the blocks back; raises ArgumentError where nothing is named.
        """
        self._shared.check_open()
        named = list(blocks)
        if prefix is not None:
            named += self._keys(prefix, extras)[-1:]
        if bool(named) == (tag is not None):
            raise ArgumentError("name what to drop: a prefix of a block or more, keys, or a tag")
        if any(len(key) != KEY_BYTES for key in named):
            raise ArgumentError(f"a block's key has {KEY_BYTES} bytes")
        if tag is not None:
            return self._drop_tag(tag, overwrite=overwrite)
        return self._shared.dropping.drop(
            lambda generation, _: [
                Tombstone(Kind.KEY, key, generation, self._residency.clock()) for key in named
            ],
            lambda: [
                row
                for key in named
                for part in self._parts
                if (row := self._residency.index.find(key + bytes(part))) != NONE
            ],
            overwrite=overwrite,
        )

    def _drop_tag(self, tag: str, *, overwrite: bool) -> Receipt:
        residency = self._residency
        tenant = tenant_id(self.identity.tenant)
        subject = tag_subject(tenant, tag)

        def tombstones(generation: int, keys: Sequence[bytes]) -> list[Tombstone]:
            # the keys too: what hangs from a tagged block goes with it, and may have no tag
            now = residency.clock()
            by_key = [Tombstone(Kind.KEY, key, generation, now) for key in keys]
            return [Tombstone(Kind.TAG, subject, generation, now), *by_key]

        def rows() -> list[int]:
            number = residency.tenant_number(tenant)
            rows = residency.marks.tagged(tag)
            return [row for row in rows if residency.index.tenant[row] == number]

        return self._shared.dropping.drop(
            tombstones,
            rows,
            overwrite=overwrite,
        )

    def _keys(self, tokens: Tokens, extras: Extras) -> list[bytes]:
        self._shared.check_open()
        return keys.chain(self.root, tokens, self.layout.block_tokens, extras)

    def _each_stored(self, tokens: Tokens, extras: Extras, act: Callable[[int], None]) -> int:
        chain, residency = self._keys(tokens, extras), self._residency
        with residency.lock:
            now = residency.clock()
            for block, key in enumerate(chain):
                rows = [residency.index.find(key + bytes(part)) for part in self._parts]
                if NONE in rows or any(0 < residency.index.expiry[row] <= now for row in rows):
                    return block
                for row in rows:
                    act(row)
        return len(chain)

    def _life(self, ttl_s: float | None) -> tuple[float, float]:
        """When what is saved now expires, 0 for never; and now."""
        now = self._residency.clock()
        ttl_s = self._shared.settings.ttl if ttl_s is None else ttl_s
        if not 0 <= ttl_s < inf:
            raise ArgumentError(f"ttl_s={ttl_s} is not a number of seconds, 0 for never")
        return now + ttl_s if ttl_s else 0.0, now

    def _write(self, rows: Sequence[int]) -> None:
        if not self.identity.is_private and rows:
            self._mover.store(rows)

    def _hold(self, plan: Plan, at_most: int, is_last: Callable[[], bool]) -> Hit:
        held = self._loading.hold(plan, at_most)
        if held.fetches:
            self._mover.load(held.fetches)
        return Hit(
            self._residency,
            self._shared.promotion,
            held.leases,
            layout=self.layout,
            blocks=held.blocks,
            deadline_s=self._shared.settings.deadline,
            is_last=is_last,
        )

    def _leave(self, owner: str) -> bool:
        """One hold of an owner ends; whether it was the last."""
        with self._holding:
            hit, joined = self._held.pop(owner)
            if joined > 1:
                self._held[owner] = hit, joined - 1
            return joined == 1


def _checked_fidelity(fidelity: int, derived_from: Hit | None) -> int:
    if derived_from is not None:
        fidelity = min(fidelity, derived_from.fidelity)
    if not 0 <= fidelity <= EXACT:
        raise ArgumentError(f"fidelity={fidelity} is not in 0..{EXACT}")
    return fidelity


def _checked(tags: Iterable[str]) -> tuple[str, ...]:
    tags = tuple(tags)
    for tag in tags:
        is_text = isinstance(tag, str) and tag.isprintable()
        if not (is_text and 0 < len(tag.encode()) <= _TAG_BYTES):
            raise ArgumentError(f"tag {tag!r} is not 1 to {_TAG_BYTES} bytes of printable text")
    return tags


def _check_attachments(attachments: Attachments, blocks: int) -> None:
    for name, arrays in attachments.items():
        if len(arrays) != blocks:
            raise ArgumentError(
                f"attachment {name!r} has {len(arrays)} arrays for {blocks} blocks that are saved"
            )
        if any(array.dtype != np.uint8 or array.ndim != 1 for array in arrays):
            raise ArgumentError(f"attachment {name!r} is not made of one-dimensional uint8 arrays")
