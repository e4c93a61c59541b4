"""Matching a long prompt: what it costs beside the hashing that nobody can do without.

The bare calls hash messages of the chain's own lengths that were made beforehand, which no chain
can do, since each of its messages holds the digest before it; packing the list of tokens is part
of both sides.
"""

import time
from array import array
from hashlib import sha256
from pathlib import Path

from ..kvstore import keys
from ..kvstore.layout import Group, Layout
from ..kvstore.store import Store
from .bench_figures import Figure, paired, spread
from .bench_ground import NoPages, Scale, identity_of, prompt_of, settings_of

_BLOCK_TOKENS = 16
_SLOT_SHARE = 128 << 10  # memory for each block: a slab has one header slot for so many bytes
_SAVED_AT_ONCE = 64  # blocks


def match(scale: Scale, directory: Path) -> list[Figure]:
    """Match of a stored prompt against ``keys.chain``, and that against bare SHA-256."""
    layout = Layout((Group((0,), heads=1, head_dim=64, dtype="bfloat16"),), _BLOCK_TOKENS)
    tokens = prompt_of(0, scale.prompt).tolist()
    blocks = scale.prompt // _BLOCK_TOKENS
    with Store(settings_of(directory / "match", (blocks + 64) * _SLOT_SHARE)) as store:
        space = store.space(identity_of(layout))
        step = _SAVED_AT_ONCE * _BLOCK_TOKENS
        for start in range(0, scale.prompt, step):
            space.save(tokens[: start + step], NoPages(), start=start)
        if space.match(tokens).tokens != scale.prompt:
            raise AssertionError("a prompt that was saved is not matched whole")
        root = space.root
        matched = paired(
            lambda _: lambda: space.match(tokens),
            lambda _: lambda: keys.chain(root, tokens, _BLOCK_TOKENS),
            rounds=scale.rounds,
            clock=time.thread_time,
        )
    messages = _messages(root, tokens)
    hashed = paired(
        lambda _: lambda: keys.chain(root, tokens, _BLOCK_TOKENS),
        lambda _: lambda: _bare(tokens, messages),
        rounds=scale.rounds,
        clock=time.thread_time,
    )
    prompt = f"{scale.prompt} tokens, {blocks} blocks"
    taken = f"{prompt}; match takes {spread(matched.ours).median * 1e3:.2f} ms"
    bare = f"{prompt}; bare SHA-256 takes {spread(hashed.theirs).median * 1e3:.2f} ms"
    return [
        Figure("match, all hits / keys.chain", matched.cost, 2.0, at_most=True, note=taken),
        Figure("keys.chain / bare SHA-256", hashed.cost, 1.3, at_most=True, note=bare),
    ]


def _bare(tokens: list[int], messages: list[bytes]) -> list[bytes]:
    """Pack the tokens, then hash messages that are there already."""
    array("I", tokens).tobytes()
    return [sha256(message).digest() for message in messages]


def _messages(root: bytes, tokens: list[int]) -> list[bytes]:
    """What ``keys.chain`` hashes, block by block."""
    chain = [root, *keys.chain(root, tokens, _BLOCK_TOKENS)]
    words = keys.uint32_tokens(tokens).tobytes()
    step = 4 * _BLOCK_TOKENS
    return [
        keys.framed(b"block", parent, words[number * step : (number + 1) * step], b"")
        for number, parent in enumerate(chain[:-1])
    ]
