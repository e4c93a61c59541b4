"""``kvstrata drop``: take blocks away for good."""

import re
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import NamedTuple

import typer

from ..kvstore.dropping import Receipt
from ..kvstore.errors import ArgumentError
from ..kvstore.identity import Identity
from ..kvstore.inspection import inspect
from ..kvstore.store import Store
from ..kvstore.units import format_size
from .cli_ground import Where, choose, read_tokens, say, say_json
from .cli_words import SHORT, moment
from .cli_words import tenant as tenant_words

_KEY = re.compile(r"[0-9a-fA-F]{64}")


class Target(NamedTuple):
    """What is to be dropped, as the command line says it: one of the four."""

    tokens: str | None
    key: str | None
    tag: str | None
    tenant: str | None


class Plan(NamedTuple):
    """What would be dropped, in words, and the drop."""

    what: str
    carry_out: Callable[[], Receipt]


def drop(
    where: Where,
    target: Target,
    *,
    prefix: str,
    overwrite: bool,
    is_confirmed: bool,
    as_json: bool,
) -> bool:
    """Ask, drop, print the receipt; whether nothing can bring the blocks back."""
    _check(target, is_confirmed=is_confirmed)
    with inspect(where.settings()) as store:
        what, carry_out = _plan(store, target, prefix, overwrite=overwrite)
        if not is_confirmed:
            _confirm(f"Drop from {store.settings.dir}, for good: {what}?")
        receipt = carry_out()
    if as_json:
        say_json({**asdict(receipt), "when": moment(receipt.when), "complete": not receipt.partial})
    else:
        say(in_words(receipt))
    return not receipt.partial


def in_words(receipt: Receipt) -> str:
    """A receipt for people."""
    removed = ", ".join(f"{count} on {tier}" for tier, count in receipt.removed.items() if count)
    lines = [
        f"Dropped {receipt.blocks} frames at {moment(receipt.when)}"
        + (f" ({removed})." if removed else "."),
        f"Payload: {format_size(receipt.overwritten_bytes)} overwritten, "
        f"{format_size(receipt.freed_bytes)} freed.",
    ]
    if receipt.partial:
        lines.append("NOT COMPLETE. Out of reach, and carried out before it serves again:")
        lines += [f"  {medium}" for medium in receipt.partial]
    else:
        lines.append("Nothing can bring them back.")
    return "\n".join(lines)


def _check(target: Target, *, is_confirmed: bool) -> None:
    if sum(each is not None for each in target) != 1:
        raise ArgumentError("say what to drop: one of --tokens, --key, --tag and --tenant")
    if target.key is not None and not _KEY.fullmatch(target.key):
        raise ArgumentError(f"--key {target.key} is not a key: 64 hexadecimal digits")
    is_asked = not is_confirmed
    if is_asked and (target.tokens == "-" or not sys.stdin.isatty()):
        raise ArgumentError("nobody can be asked here whether to drop; say --yes")


def _plan(store: Store, target: Target, prefix: str, *, overwrite: bool) -> Plan:
    tokens, key, tag, tenant = target
    if tenant is not None:
        what = f"everything of tenant {tenant_words(tenant)}"
        return Plan(what, lambda: store.drop_tenant(tenant, overwrite=overwrite))
    identity = _identity(store, target, prefix)
    space = store.space(identity)
    if tag is not None:
        what = f"what is tagged {tag!r} of tenant {tenant_words(identity.tenant)}"
        return Plan(what, lambda: space.drop(tag=tag, overwrite=overwrite))
    if key is not None:
        what = f"block {key[:SHORT]} and all that continues it"
        return Plan(what, lambda: space.drop(blocks=[bytes.fromhex(key)], overwrite=overwrite))
    prompt = read_tokens(str(tokens))
    step = identity.layout.block_tokens
    end = len(prompt) // step * step
    if not end:
        raise ArgumentError(f"{len(prompt)} tokens are less than a block, which has {step}")
    what = f"the block of tokens {end - step} to {end - 1} and all that continues it"
    return Plan(what, lambda: space.drop(prefix=prompt, overwrite=overwrite))


def _identity(store: Store, target: Target, prefix: str) -> Identity:
    """A tag is a tenant's, so where there is one tenant any of its identities will do."""
    known = store.identities()
    if target.tag is not None and not prefix and len({each.tenant for each in known}) == 1:
        return known[0]
    return choose(store, prefix)


def _confirm(question: str) -> None:
    """Ask on the terminal; leaves with exit status 1 where the answer is no."""
    try:
        answer = typer.confirm(question, err=True)
    except typer.Abort as interrupted:
        raise typer.Exit(130) from interrupted
    if not answer:
        raise typer.Exit(1)
