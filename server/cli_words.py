"""Stored things in the words of people: identities, layouts, moments."""

from datetime import datetime

from ..kvstore.identity import Identity
from ..kvstore.layout import Group, Layout
from ..kvstore.units import format_size

SHORT = 12
"""Digits of a digest that are shown."""


def moment(seconds: float) -> str:
    """A time in seconds since the epoch as local time in ISO 8601, with its offset."""
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")


def identity_line(identity: Identity) -> str:
    """An identity in one line, its root first."""
    return (
        f"{identity.root.hex()[:SHORT]}  tenant {tenant(identity.tenant)}, "
        f"config {digest(identity.config)}, {layout_words(identity.layout)}"
    )


def tenant(name: str) -> str:
    """A tenant's name; the empty one is nobody's."""
    return repr(name) if name else "none"


def digest(text: str) -> str:
    """The beginning of a digest, or a shorter text as it is; never what a terminal would obey."""
    short = text if len(text) <= 2 * SHORT else text[:SHORT]
    return short if short.isprintable() else repr(short)


def layout_words(layout: Layout) -> str:
    """``30 layers of 3 heads x 64, float32; blocks of 32 tokens (1.4 MiB)``."""
    groups = " and ".join(_group(group) for group in layout.groups)
    size = format_size(layout.token_bytes * layout.block_tokens)
    shards = f", in {layout.shards} shards" if layout.shards > 1 else ""
    return f"{groups}; blocks of {layout.block_tokens} tokens ({size}){shards}"


def _group(group: Group) -> str:
    heads = f"{group.heads} heads" if group.heads > 1 else "1 head"
    planes = "" if group.planes == 2 else f", {group.planes} plane{'s' * (group.planes > 1)}"
    window = f", window of {group.window}" if group.window else ""
    return (
        f"{len(group.layers)} layers of {heads} x {group.head_dim}, {group.dtype}{planes}{window}"
    )
