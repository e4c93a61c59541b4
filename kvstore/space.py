"""One identity's view of a store: the verbs that engines use.

    plan = space.match(tokens)                 what is stored, nothing leased
    with space.hold(plan, owner) as hit:       leased
        hit.load(pages)                        copied into the engine
    space.save(tokens, pages)                  what the engine computed

Every verb may be called from any thread.  Bookkeeping happens under the store's lock, copying and
I/O never do.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

from . import keys
from .dropping import Dropping, Receipt
from .errors import ArgumentError
from .hit import Hit
from .identity import Identity
from .index import NONE
from .keys import Tokens, tenant_id
from .layout import EXACT, Part
from .loading import Loading
from .mover import Mover
from .pages import Pages
from .plan import Plan
from .residency import Residency
from .saving import Attachments, Batch, Saving, Terms
from .settings import Settings
from .tombstones import Kind, Tombstone, tag_subject

_FOREVER = 1 << 62


class Space:
    """What one identity has in a store.  Made by ``Store.space``."""

    def __init__(
        self,
        identity: Identity,
        residency: Residency,
        *,
        mover: Mover,
        dropping: Dropping,
        settings: Settings,
    ) -> None:
        self.identity = identity
        self.layout = identity.layout
        self.root = identity.root
        self._residency = residency
        self._mover = mover
        self._dropping = dropping
        self._write_behind = settings.write == "behind" and not identity.is_private
        self._ttl_s = settings.ttl
        self._deadline_s = settings.deadline
        self._parts = tuple(
            Part(group, shard)
            for group in range(len(self.layout.groups))
            for shard in range(self.layout.group_shards(group))
        )
        self._loading = Loading(residency, self.layout, self._parts)
        self._saving = Saving(residency, identity, self._parts)
        self._held: dict[str, tuple[Hit, int]] = {}

    def match(self, tokens: Tokens, *, extras: Mapping[int, bytes] | None = None) -> Plan:
        """What is stored of a prompt: every restorable length.  Leases nothing.

        ``extras`` maps block numbers to bytes that also enter those blocks' keys (hashes of images
        and the like).  Raises ArgumentError for tokens that are no uint32.
        """
        return self._loading.plan(self._keys(tokens, extras), len(tokens))

    def hold(self, plan: Plan, owner: str = "", *, at_most: int | None = None) -> Hit:
        """Lease what restoring the plan's longest length, up to ``at_most`` tokens, needs.

        Reads from disk begin at once.  The hit is shorter than the plan where blocks left since, or
        do not fit into memory.  Holds of one ``owner`` (engine id, request id) are one hit, closed
        with the last of them.
        """
        with self._residency.lock:
            if owner in self._held:
                hit, joined = self._held[owner]
                self._held[owner] = hit, joined + 1
                return hit
        held = self._loading.hold(plan, _FOREVER if at_most is None else at_most)
        if held.fetches:
            self._mover.load(held.fetches)
        hit = Hit(
            self._residency,
            self.layout,
            held.leases,
            blocks=held.blocks,
            deadline_s=self._deadline_s,
            is_last=lambda: self._leave(owner),
        )
        if owner:
            with self._residency.lock:
                self._held[owner] = hit, 1
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
        extras: Mapping[int, bytes] | None = None,
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
        now = self._residency.clock()
        ttl_s = self._ttl_s if ttl_s is None else ttl_s
        terms = Terms(
            saved=now,
            fidelity=min(fidelity, derived_from.fidelity) if derived_from else fidelity,
            expiry=now + ttl_s if ttl_s else 0.0,
            tags=tuple(tags),
            attachments=attachments or {},
        )
        batch = Batch(
            self._keys(packed, extras),
            packed.data.cast("B"),
            extras or {},
            start // self.layout.block_tokens,
        )
        stored, rows = self._saving.save(batch, pages, terms)
        if self._write_behind and rows:
            self._mover.store(rows, [self._residency.index.generation[row] for row in rows])
        return stored

    def pin(self, tokens: Tokens, seconds: float) -> int:
        """Keep a prompt's stored blocks from being evicted for so long; how many blocks."""
        if not seconds > 0:
            raise ArgumentError(f"seconds={seconds}: a pin ends, in more than 0 seconds")
        until = self._residency.clock() + seconds
        return self._each_stored(tokens, lambda row: self._residency.pin(row, until))

    def unpin(self, tokens: Tokens) -> int:
        """End the pins of a prompt's stored blocks; how many blocks."""
        return self._each_stored(tokens, self._residency.unpin)

    def tag(self, tokens: Tokens, tags: Iterable[str]) -> int:
        """Add tags to a prompt's stored blocks; how many blocks."""
        tags = tuple(tags)
        return self._each_stored(tokens, lambda row: self._residency.tag(row, tags))

    def prefetch(self, tokens: Tokens) -> int:
        """Begin to bring a prompt's blocks into host memory; how many reads were started."""
        held = self._loading.hold(self.match(tokens), _FOREVER)
        if held.fetches:
            self._mover.load(held.fetches)
        with self._residency.lock:
            for lease in held.leases.values():
                self._residency.release(lease.row, lease.generation, lease.slot)
        return len(held.fetches)

    def drop(
        self,
        *,
        prefix: Tokens | None = None,
        blocks: Sequence[bytes] = (),
        tag: str | None = None,
        overwrite: bool = False,
    ) -> Receipt:
        """Drop a prefix with all that continues it, blocks by key, or this tenant's tag, for good.

        The last full block of ``prefix`` and everything computed after it goes; ``blocks`` are keys
        of blocks, likewise with what continues them; a ``tag`` is looked for in every identity of
        the tenant.  One of the three is given.  ``overwrite`` zeroes the payload too.  Returns when
        nothing can bring the blocks back; raises ArgumentError where nothing is named.
        """
        named = list(blocks)
        if prefix is not None:
            named += self._keys(prefix, None)[-1:]
        if bool(named) == (tag is not None):
            raise ArgumentError("name what to drop: a prefix of a block or more, keys, or a tag")
        if tag is not None:
            return self._drop_tag(tag, overwrite=overwrite)
        return self._dropping.drop(
            lambda generation: [
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

        def rows() -> list[int]:
            number = residency.tenant_number(tenant)
            return [r for r in residency.tags.get(tag, ()) if residency.index.tenant[r] == number]

        return self._dropping.drop(
            lambda generation: [Tombstone(Kind.TAG, subject, generation, residency.clock())],
            rows,
            overwrite=overwrite,
        )

    def _keys(self, tokens: Tokens, extras: Mapping[int, bytes] | None) -> list[bytes]:
        return keys.chain(self.root, tokens, self.layout.block_tokens, extras)

    def _each_stored(self, tokens: Tokens, act: Callable[[int], None]) -> int:
        chain: Sequence[bytes] = self._keys(tokens, None)
        with self._residency.lock:
            for block, key in enumerate(chain):
                rows = [self._residency.index.find(key + bytes(part)) for part in self._parts]
                if NONE in rows:
                    return block
                for row in rows:
                    act(row)
        return len(chain)

    def _leave(self, owner: str) -> bool:
        """Whether this was the last hold of the owner."""
        with self._residency.lock:
            hit_joined = self._held.get(owner)
            if hit_joined is None:
                return True
            hit, joined = hit_joined
            if joined > 1:
                self._held[owner] = hit, joined - 1
                return False
            del self._held[owner]
            return True
