"""Random verbs, failures and restarts, held against a plain model of what may and must be there.

The model knows of each block whether it *may* be served (it was saved, and not dropped or expired
since), and whether it *must* be (it is pinned, or a flush acknowledged it on a disk large enough).
Every byte that is restored is compared; the store's books are audited after every step.
"""

import errno
import shutil
import tempfile
from collections.abc import Sequence
from math import inf
from pathlib import Path
from typing import ClassVar, NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kvstrata.kvstore.hit import Hit
from kvstrata.kvstore.layout import EXACT, Layout
from kvstrata.kvstore.space import Space
from tests.store import slabs
from tests.store.faulty import FaultyDisk
from tests.store.kit import (
    FULL,
    MIB,
    ROUGH,
    SHARDS,
    WINDOW,
    Clock,
    KeyedPages,
    Scene,
    eventually,
    identity,
    prompt,
    tier,
)
from tests.store.model import Model, prefix

NAMES, BLOCKS = 6, 4
TENANTS = ("red", "blue")
TAGS = ("a", "b")
OPERATIONS = ("read", "write", "sync")

tenants = st.sampled_from(TENANTS)
names = st.integers(0, NAMES - 1)
lengths = st.integers(1, BLOCKS)
seconds = st.sampled_from((10, 100, 1000))


class Terms(NamedTuple):
    """How a prompt is saved."""

    fidelity: int
    ttl_s: int
    tags: frozenset[str]


all_terms = st.builds(
    Terms,
    st.sampled_from((EXACT, EXACT, ROUGH)),
    st.sampled_from((0, 0, 50, 500)),
    st.frozensets(st.sampled_from(TAGS), max_size=1),
)


class Machine(RuleBasedStateMachine):
    """The store beside its model."""

    layout: ClassVar[Layout] = FULL
    memory: ClassVar[int] = 3 * MIB
    disk: ClassVar[int] = 24 * MIB
    codec: ClassVar[str] = "raw"
    never_evicts_from_disk: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="kvstrata-model-"))
        self.clock = Clock()
        self.faults = FaultyDisk()
        self.is_faulty = False
        self.recoveries = 3  # each may take a second
        self.models = {tenant: Model() for tenant in TENANTS}
        self.hits: list[tuple[Hit, KeyedPages]] = []
        self.scene = Scene(
            self.root / "store",
            self.clock,
            memory=self.memory,
            disk=self.disk,
            codec=self.codec,
            deadline=5.0,
        )

    @initialize()
    def open(self) -> None:
        """A new store."""
        self.store = self.scene.open(self.faults.open)

    def teardown(self) -> None:
        """Let go of everything."""
        for hit, _ in self.hits:
            hit.close()
        self.faults.mend()
        self.store.close()
        shutil.rmtree(self.root)

    def _space(self, tenant: str) -> Space:
        return self.store.space(identity(self.layout, tenant=tenant))

    def _tokens(self, name: int, blocks: int) -> list[int]:
        """Prompts 3, 4 and 5 continue the first two blocks of 0, 1 and 2."""
        if name < NAMES // 2 or blocks <= 2:
            return prompt(name % (NAMES // 2), blocks, layout=self.layout)
        head = prompt(name - NAMES // 2, 2, layout=self.layout)[: 2 * self.layout.block_tokens]
        return prompt(name, blocks - 2, layout=self.layout, after=head)

    def _is_up(self) -> bool:
        return not self.is_faulty and not tier(self.store.stats(), "disk").degraded

    def _found(self, space: Space, tokens: Sequence[int]) -> int:
        return space.match(tokens).tokens // self.layout.block_tokens

    @rule(tenant=tenants, name=names, blocks=lengths, terms=all_terms)
    def save(self, tenant: str, name: int, blocks: int, *, terms: Terms) -> None:
        fidelity, ttl_s, tags = terms
        space, model, tokens = self._space(tenant), self.models[tenant], self._tokens(name, blocks)
        pages = KeyedPages(space, tokens, fidelity=fidelity)
        stored = space.save(tokens, pages, fidelity=fidelity, ttl_s=ttl_s, tags=tags)
        assert stored <= blocks
        if not any(block.is_doubtful for block in model.chain(pages.keys)):  # a read may find out
            assert self._found(space, tokens) >= stored
        ends = self.clock() + ttl_s if ttl_s else inf
        model.saved(pages.keys, stored, ends=ends)
        for block in model.chain(pages.keys):
            block.maybe_tags |= tags
        model.tagged(model.chain(pages.keys)[:stored], tags)

    @rule(tenant=tenants, name=names, blocks=lengths)
    def restore(self, tenant: str, name: int, blocks: int) -> None:
        space, tokens = self._space(tenant), self._tokens(name, blocks)
        pages = KeyedPages(space, tokens)
        chain = self.models[tenant].chain(pages.keys)
        with space.hold(space.match(tokens)) as hit:
            restored = hit.load(pages) // self.layout.block_tokens
            pages.check(hit.tokens, hit.fidelity)
        assert restored <= prefix(chain, "may")

    @precondition(lambda self: len(self.hits) < 3)
    @rule(tenant=tenants, name=names, blocks=lengths)
    def hold(self, tenant: str, name: int, blocks: int) -> None:
        space, tokens = self._space(tenant), self._tokens(name, blocks)
        self.hits.append((space.hold(space.match(tokens)), KeyedPages(space, tokens)))

    @precondition(lambda self: self.hits)
    @rule(which=st.integers(0, 2))
    def load_and_release(self, which: int) -> None:
        hit, pages = self.hits.pop(which % len(self.hits))
        pages.check(hit.load(pages), hit.fidelity)
        hit.close()

    @rule(tenant=tenants, name=names, blocks=lengths, time=seconds)
    def pin(self, tenant: str, name: int, blocks: int, time: int) -> None:
        space, tokens = self._space(tenant), self._tokens(name, blocks)
        pinned = space.pin(tokens, time)
        chain = self.models[tenant].chain(space.match(tokens).keys)
        for block in chain[: min(pinned, prefix(chain, "may"))]:
            block.pinned_until = max(block.pinned_until, self.clock() + time)

    @rule(tenant=tenants, name=names, blocks=lengths)
    def unpin(self, tenant: str, name: int, blocks: int) -> None:
        space, tokens = self._space(tenant), self._tokens(name, blocks)
        reached = space.unpin(tokens)
        for block in self.models[tenant].chain(space.match(tokens).keys)[:reached]:
            block.pinned_until = 0.0

    @rule(tenant=tenants, name=names, blocks=lengths, tag=st.sampled_from(TAGS))
    def tag(self, tenant: str, name: int, blocks: int, tag: str) -> None:
        space, tokens = self._space(tenant), self._tokens(name, blocks)
        reached = space.tag(tokens, [tag])
        model = self.models[tenant]
        model.tagged(model.chain(space.match(tokens).keys)[:reached], {tag})

    @rule(tenant=tenants, name=names, blocks=lengths)
    def prefetch(self, tenant: str, name: int, blocks: int) -> None:
        self._space(tenant).prefetch(self._tokens(name, blocks))

    @rule(tenant=tenants, name=names, blocks=lengths, overwrite=st.booleans())
    def drop(self, tenant: str, name: int, blocks: int, overwrite: bool) -> None:
        space, tokens = self._space(tenant), self._tokens(name, blocks)
        keys = space.match(tokens).keys
        space.drop(prefix=tokens, overwrite=overwrite)
        self.models[tenant].chain(keys)
        for block in self.models[tenant].below(keys[-1]):
            block.forget()
        assert self._found(space, tokens) < blocks

    @rule(tenant=tenants, tag=st.sampled_from(TAGS))
    def drop_tag(self, tenant: str, tag: str) -> None:
        self._space(tenant).drop(tag=tag)
        model = self.models[tenant]
        for key, block in list(model.blocks.items()):
            if tag in block.tags:
                for each in model.below(key):
                    each.forget()
            elif tag in block.maybe_tags:
                model.doubt(key)

    @rule(tenant=tenants)
    def drop_tenant(self, tenant: str) -> None:
        self.store.drop_tenant(tenant)
        for block in self.models[tenant].blocks.values():
            block.forget()

    @rule(time=st.sampled_from((1, 49, 60, 600)), is_kept=st.booleans())
    def wait(self, time: int, is_kept: bool) -> None:
        self.clock.advance(time)
        if is_kept:
            self.store.expire()
        for model in self.models.values():
            model.expire(self.clock())

    @rule()
    def flush(self) -> None:
        if self.store.flush() and self._is_up() and self.never_evicts_from_disk:
            for tenant in TENANTS:
                self._trust_what_is_found(tenant)

    def _trust_what_is_found(self, tenant: str) -> None:
        space = self._space(tenant)
        for name in range(NAMES):
            tokens = self._tokens(name, BLOCKS)
            keys = space.match(tokens).keys
            for block in self.models[tenant].chain(keys)[: self._found(space, tokens)]:
                if block.is_doubtful:
                    break
                block.must = True

    @rule(is_index_deleted=st.booleans())
    def restart(self, is_index_deleted: bool) -> None:
        for hit, _ in self.hits:
            hit.close()
        self.hits = []
        self.faults.mend()
        self.is_faulty = False
        self.store.close()
        if is_index_deleted:
            shutil.rmtree(self.scene.dir / "index")
        self.store = self.scene.open(self.faults.open)
        for model in self.models.values():
            for block in model.blocks.values():
                block.pinned_until = 0.0
                if not block.must:
                    block.tags = set()

    @precondition(lambda self: not self.is_faulty)
    @rule(operation=st.sampled_from(OPERATIONS))
    def break_the_disk(self, operation: str) -> None:
        self.is_faulty = True
        self.faults.fail(operation, error=errno.EIO)  # type: ignore[arg-type]

    @precondition(lambda self: self.is_faulty)
    @rule()
    def mend_the_disk(self) -> None:
        self.is_faulty = False
        self.faults.mend()

    @precondition(lambda self: self.recoveries and not self.is_faulty)
    @rule()
    def recover(self) -> None:
        self.recoveries -= 1
        if self._is_up():  # no precondition: threads decide it
            return
        self.wait(200, is_kept=True)
        eventually(self._is_up)

    @rule(which=st.integers(0, 1000), at=st.integers(0, 1000))
    def damage(self, which: int, at: int) -> None:
        """Flip a bit of some payload on disk, at rest."""
        if not self._is_up() or not self.store.flush():
            return
        frames = list(slabs.frames(self.scene.dir))
        if frames:
            frame = frames[which % len(frames)]
            slabs.damage(frame, at=at)
            for model in self.models.values():
                model.doubt(frame.key)
                if frame.key in model.blocks:
                    model.blocks[frame.key].is_doubtful = True

    @invariant()
    def the_books_add_up(self) -> None:
        self.store.audit()
        for line in self.store.stats().tiers:
            assert line.payload_bytes <= line.used_bytes <= line.capacity_bytes

    @invariant()
    def what_must_be_there_is_there_and_what_is_gone_is_gone(self) -> None:
        is_up = self._is_up()
        for tenant in TENANTS:
            space = self._space(tenant)
            for name in range(NAMES):
                tokens = self._tokens(name, BLOCKS)
                plan = space.match(tokens)
                chain = self.models[tenant].chain(plan.keys)
                found = plan.tokens // self.layout.block_tokens
                assert found <= prefix(chain, "may"), "what is gone came back"
                if is_up:
                    assert found >= prefix(chain, "must"), "what was flushed is gone"
                    assert found >= prefix(chain, "pinned_until"), "what is pinned is gone"


class WindowMachine(Machine):
    """Two groups, and a disk so small that blocks leave it."""

    layout = WINDOW
    disk = 8 * MIB
    never_evicts_from_disk = False


class ShardMachine(Machine):
    """Two shards, and a disk that is encoded."""

    layout = SHARDS
    disk = 32 * MIB
    codec = "plane-huff"


_PROFILE = settings(
    deadline=None, max_examples=max(12, settings().max_examples // 2), stateful_step_count=40
)
TestOneGroup = Machine.TestCase
TestOneGroup.settings = _PROFILE
TestTwoGroups = WindowMachine.TestCase
TestTwoGroups.settings = _PROFILE
TestTwoShards = ShardMachine.TestCase
TestTwoShards.settings = _PROFILE
