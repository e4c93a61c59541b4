"""``kvstrata explain``: how far a prompt is stored, and why no further."""

from dataclasses import asdict

from ..kvstore.explain import Cause, Explanation
from ..kvstore.identity import Identity
from ..kvstore.inspection import inspect
from .cli_ground import Where, choose, read_tokens, say, say_json
from .cli_words import identity_line, moment


def explain(where: Where, *, source: str, prefix: str, as_json: bool) -> None:
    """Print what the store says of a prompt."""
    tokens = read_tokens(source)
    with inspect(where.settings()) as store:
        identity = choose(store, prefix)
        found = store.space(identity).explain(tokens)
    if as_json:
        say_json(_as_object(found, identity))
    else:
        say(f"Identity {identity_line(identity)}")
        say(in_words(found, identity))


def in_words(found: Explanation, identity: Identity) -> str:
    """An explanation for people."""
    step = identity.layout.block_tokens
    if found.cause is Cause.NONE:
        return f"All {found.asked_tokens} tokens are stored."
    stored = f"{found.tokens} of {found.asked_tokens} tokens are stored"
    if found.cause is Cause.SHORT or found.block is None:
        return f"{stored}; the rest is less than a block of {step} tokens, and blocks are whole."
    first = found.block * step
    return (
        f"{stored}.\n"
        f"Block {found.block} (tokens {first} to {first + step - 1}) is missing: {_why(found)}."
    )


def _why(found: Explanation) -> str:
    if found.cause is Cause.UNKNOWN and found.since is not None:
        # what left is remembered by the process that used the store, and ends with it
        return f"it is not stored now, and what was before {moment(found.since)} is not known"
    when = f" at {moment(found.when)}" if found.when is not None else ""
    details = {
        Cause.EVICTED: f" by the policy {found.policy}{when}, to make room for "
        f"{found.made_room_for}",
        Cause.OTHER_IDENTITY: f", which differs in {', '.join(found.fields)}",
        Cause.DIVERGED: f", from token {found.diverges_at} on",
    }
    return found.cause.value + details.get(found.cause, when)


def _as_object(found: Explanation, identity: Identity) -> dict[str, object]:
    return {
        **asdict(found),
        "identity": identity.root.hex(),
        "cause": found.cause.name.lower(),
        "when": moment(found.when) if found.when is not None else None,
        "since": moment(found.since) if found.since is not None else None,
        "words": in_words(found, identity),
    }
