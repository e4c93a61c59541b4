"""An engine's side of the store: match a sequence, load what is stored of it, save what is new.

``Connector`` is what an engine's adapter calls for each of its sequences, with ``Pages`` over the
engine's own memory.  ``SpaceConnector`` is the one for engines that run in the store's process.
None of its verbs raises into the engine: whatever goes wrong in the store is a miss.
"""

import logging
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ..kvstore.errors import KVStrataError
from ..kvstore.keys import Tokens
from ..kvstore.pages import Pages
from ..kvstore.plan import Plan

if TYPE_CHECKING:
    from ..kvstore.hit import Hit
    from ..kvstore.space import Space

log = logging.getLogger(__name__)


class Loaded(NamedTuple):
    """What a load brought; the engine computes from ``tokens`` on, and hands this to ``save``."""

    tokens: int = 0
    is_short: bool = False  # a block turned out bad, so it is less than was promised
    hit: "Hit | None" = None  # closed; what is computed behind it inherits its fidelity


class Connector(Protocol):
    """What an engine's adapter asks for one sequence of tokens."""

    def match(self, tokens: Tokens) -> Plan | None:
        """What is stored of the sequence; None where the store cannot be asked."""
        ...

    def load(self, plan: Plan, pages: Pages, *, at_most: int) -> Loaded:
        """Restore the longest length of the plan that is no more than ``at_most`` tokens.

        The engine may use ``tokens`` of what it gets and nothing behind them: a block that turned
        out bad may have been written in part.
        """
        ...

    def save(self, tokens: Tokens, pages: Pages, *, since: Loaded) -> int:
        """Offer the sequence's full blocks to the store; the number of them that it has now."""
        ...


class SpaceConnector:
    """The connector of an engine in the store's own process, for one identity.

    Any thread may call it.
    """

    def __init__(self, space: "Space") -> None:
        self.space = space

    def match(self, tokens: Tokens) -> Plan | None:
        """What is stored of the sequence; None where the store cannot be asked."""
        try:
            return self.space.match(tokens)
        except KVStrataError as exc:
            log.debug("no match: %s", exc)
            return None

    def load(self, plan: Plan, pages: Pages, *, at_most: int) -> Loaded:
        """Restore the longest length of the plan that is no more than ``at_most`` tokens."""
        try:
            with self.space.hold(plan, at_most=at_most) as hit:
                promised = hit.tokens
                tokens = hit.load(pages)
            return Loaded(tokens, is_short=tokens < promised, hit=hit)
        except KVStrataError as exc:
            log.debug("no load: %s", exc)
            return Loaded()

    def save(self, tokens: Tokens, pages: Pages, *, since: Loaded) -> int:
        """Offer the full blocks behind ``since``; those before it came from the store.

        A block of which only the first part was restored came from the store as well.
        """
        block = self.space.layout.block_tokens
        start = -(-since.tokens // block) * block
        try:
            return self.space.save(tokens, pages, start=start, derived_from=since.hit)
        except KVStrataError as exc:
            log.debug("not saved: %s", exc)
            return 0
