"""Why a prompt was not restored further than it was: one answer, with what mends it.

The first block that did not hit is looked for, in this order: in the store (on its way, expired, on
a medium that is switched off), among the ghosts (evicted, expired, dropped, quarantined), under the
tenant's other identities, and among the blocks that continue the last hit with other tokens.  What
is found nowhere was not stored since the records begin; before that nothing is known.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from . import keys
from .ghosts import Ghost
from .identity import Identity
from .index import ABSENT, HOST, NONE
from .layout import Part
from .meta import parse_meta
from .plan import Plan, State
from .residency import Residency

_NEIGHBOURS = 64  # blocks that continue a prefix whose tokens are compared
_IDENTITIES = 64


class Cause(Enum):
    """Why the first block that did not hit did not."""

    NONE = "everything was found"
    SHORT = "the prompt has no further full block"
    PENDING = "it is being stored"
    DEGRADED = "it lies on a medium that is switched off"
    EXPIRED = "it has expired"
    EVICTED = "it was evicted"
    DROPPED = "it was dropped"
    QUARANTINED = "it was damaged"
    LOST = "storing it failed"
    OTHER_IDENTITY = "it is stored for another identity"
    DIVERGED = "the text differs from what is stored"
    NOT_STORED = "it was not stored"
    UNKNOWN = "it was not stored since the records begin"


@dataclass(frozen=True, slots=True)
class Explanation:
    """What was found of a prompt, and why not more.

    ``block`` is the first block that did not hit, None where all did.  Of the rest, what applies:
    ``when`` (seconds since the epoch) and ``policy`` of an eviction, and whether it made room for
    this tenant or another; ``fields`` in which the identity that has the block differs;
    ``diverges_at`` the first token that differs from the nearest stored prefix; ``since`` the time
    before which nothing is known.
    """

    tokens: int
    asked_tokens: int
    cause: Cause
    block: int | None = None
    when: float | None = None
    policy: str = ""
    made_room_for: str = ""
    fields: tuple[str, ...] = ()
    diverges_at: int | None = None
    since: float | None = None

    def __str__(self) -> str:
        found = f"{self.tokens} of {self.asked_tokens} tokens were found"
        if self.block is None:
            return f"{found}: {self.cause.value}"
        return f"{found}; block {self.block}: {self.cause.value}{self._detail()}"

    def _detail(self) -> str:
        if self.cause is Cause.EVICTED:
            return f" by {self.policy} at {self.when:.0f} to make room for {self.made_room_for}"
        if self.cause is Cause.OTHER_IDENTITY:
            return f" that differs in {', '.join(self.fields)}"
        if self.cause is Cause.DIVERGED:
            return f" from token {self.diverges_at} on"
        if self.cause is Cause.UNKNOWN:
            return f", unknown before {self.since:.0f}"
        return f" at {self.when:.0f}" if self.when is not None else ""


class Explaining:
    """Answers for one store.  Any thread may call."""

    def __init__(
        self,
        residency: Residency,
        identities: Callable[[], Sequence[Identity]],
        *,
        policy: str,
    ) -> None:
        self._residency = residency
        self._identities = identities
        self._policy = policy

    def explain(self, identity: Identity, plan: Plan, tokens: NDArray[np.uint32]) -> Explanation:
        """Why ``plan``, made of ``tokens`` under ``identity``, restores no more than it does."""
        step = identity.layout.block_tokens
        block = plan.tokens // step
        asked = plan.asked_tokens
        if block == len(plan.keys):
            cause = Cause.NONE if block * step == asked else Cause.SHORT
            return Explanation(plan.tokens, asked, cause)
        missing = [p for n, p in enumerate(plan.parts) if plan.states[n, block] != State.READY]
        part = missing[0] if missing else plan.parts[0]
        found = (
            self._by_row(plan, block, part)
            or self._by_ghost(plan, block, part)
            or self._by_identity(identity, plan, tokens[: (block + 1) * step])
            or self._by_neighbours(identity, plan, part, tokens)
        )
        if found is not None:
            return found
        with self._residency.lock:
            since = self._residency.ghosts.horizon
        cause = Cause.UNKNOWN if since else Cause.NOT_STORED
        return Explanation(plan.tokens, asked, cause, block, since=since or None)

    def _by_row(self, plan: Plan, block: int, part: Part) -> Explanation | None:
        residency = self._residency
        with residency.lock:
            row = residency.index.find(plan.keys[block] + bytes(part))
            if row == NONE:
                return None
            expiry = residency.index.expiry[row]
            if 0 < expiry <= residency.clock():
                return Explanation(
                    plan.tokens, plan.asked_tokens, Cause.EXPIRED, block, when=expiry
                )
            is_placed = residency.index.place[HOST][row] != ABSENT or residency.is_on_disk(row)
        cause = Cause.DEGRADED if is_placed else Cause.PENDING
        return Explanation(plan.tokens, plan.asked_tokens, cause, block)

    def _by_ghost(self, plan: Plan, block: int, part: Part) -> Explanation | None:
        with self._residency.lock:
            ghost = self._residency.ghosts.find(plan.keys[block] + bytes(part))
        if ghost is None:
            return None
        return Explanation(
            plan.tokens,
            plan.asked_tokens,
            Cause[ghost.reason.name],
            block,
            when=ghost.when,
            policy=self._policy,
            made_room_for=_whom(ghost),
        )

    def _by_identity(
        self, identity: Identity, plan: Plan, tokens: NDArray[np.uint32]
    ) -> Explanation | None:
        """Another identity of the same tenant that has the block."""
        others = (i for i in self._identities() if i.tenant == identity.tenant and i != identity)
        for other, _ in zip(others, range(_IDENTITIES), strict=False):
            chain = keys.chain(other.root, tokens, other.layout.block_tokens)
            if not chain:
                continue
            with self._residency.lock:
                row = self._residency.index.find(chain[-1] + bytes(Part(0, 0)))
            if row != NONE:
                return Explanation(
                    plan.tokens,
                    plan.asked_tokens,
                    Cause.OTHER_IDENTITY,
                    plan.tokens // identity.layout.block_tokens,
                    fields=identity.differences(other),
                )
        return None

    def _by_neighbours(
        self, identity: Identity, plan: Plan, part: Part, tokens: NDArray[np.uint32]
    ) -> Explanation | None:
        """The block that continues the last hit and has the most tokens in common with ours."""
        step = identity.layout.block_tokens
        block = plan.tokens // step
        ours = tokens[block * step : (block + 1) * step]
        common = -1
        for theirs in self._neighbours(identity, plan, block, part):
            length = min(len(ours), len(theirs))
            differs = np.flatnonzero(ours[:length] != theirs[:length])
            common = max(common, int(differs[0]) if len(differs) else length)
        if common < 0:
            return None
        return Explanation(
            plan.tokens,
            plan.asked_tokens,
            Cause.DIVERGED,
            block,
            diverges_at=block * step + common,
        )

    def _neighbours(
        self, identity: Identity, plan: Plan, block: int, part: Part
    ) -> Iterator[NDArray[np.uint32]]:
        """Tokens of the stored blocks that have the same past."""
        residency, index = self._residency, self._residency.index
        with residency.lock:
            if block:
                parent = index.find(plan.keys[block - 1] + bytes(part))
                rows: Iterable[int] = index.children(parent) if parent != NONE else ()
            else:
                rows = (row for row in index.roots() if index.fid[row][32:] == bytes(part))
            sources = [residency.header_source(row) for row in islice(rows, _NEIGHBOURS)]
        headers = (residency.read_header(source) for source in sources if source is not None)
        for header in headers:
            if header is None or not header.segments[0].is_inline:
                continue
            if header.root == identity.root[:16]:
                tokens = parse_meta(header.inline[: header.segments[0].length]).tokens
                yield np.frombuffer(tokens, "<u4")


def _whom(ghost: Ghost) -> str:
    return "this tenant" if ghost.made_room_for == ghost.tenant else "another tenant"
