"""Keys: 32-byte names that vouch for everything a block's KV was computed from.

Every key is SHA-256 over fields, each preceded by its length as u32-LE, so that no two different
lists of fields give the same bytes:

    h0    = SHA256("root", identity's fields)      one for each identity
    h[i]  = SHA256("block", h[i-1], tokens of block i as uint32-LE, extras of block i)
    chunk = SHA256("chunk", h0, tokens, extras)    a passage of any length, without a past
    key   = SHA256("engine", h0, engine's hash)    where the engine hands in hashes, not tokens

Whoever reads a header recomputes its key (``recompute``), so a wrong parent, a wrong token or a
header of another model is found without trusting the medium.
"""

from array import array
from collections.abc import Mapping, Sequence
from enum import IntEnum
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .errors import ArgumentError
from .layout import Part

if TYPE_CHECKING:
    from .identity import Identity

Tokens = Sequence[int] | NDArray[np.integer]
"""Token numbers, each in 0..2**32-1."""
FrameId = bytes
"""A key and a part of it: ``key + bytes((group, shard))``, 34 bytes."""

KEY_BYTES = 32
FRAME_ID_BYTES = 34
ENGINE_HASH_BYTES = range(32, 65)


class KeyKind(IntEnum):
    """From what a key was derived; the number that frames carry."""

    BLOCK = 0
    CHUNK = 1
    ENGINE = 2


def framed(*fields: bytes) -> bytes:
    """The fields end to end, each behind its length as u32-LE."""
    return b"".join(part for f in fields for part in (len(f).to_bytes(4, "little"), f))


_BLOCK = framed(b"block") + KEY_BYTES.to_bytes(4, "little")  # all that stands before the parent


def root(identity: "Identity") -> bytes:
    """h0 of an identity: two identities that differ in any field share no key below it."""
    return sha256(framed(b"root", *identity.fields())).digest()


def chain(
    root: bytes,
    tokens: Tokens,
    block_tokens: int,
    extras: Mapping[int, bytes] | None = None,
) -> list[bytes]:
    """Keys of the full blocks of ``tokens``, first block first; a last partial one has no key.

    ``root`` is h0, or the key of the block before the first token.  ``extras`` maps a block number
    to bytes that also enter that block's key (hashes of images and the like).

    Raises ``ArgumentError`` for a token that is no uint32 and for ``block_tokens`` below 1.
    """
    bodies = _bodies(uint32_tokens(tokens), block_tokens, extras or {})
    head, key = _BLOCK, root
    return [key := sha256(head + key + body).digest() for body in bodies]


def chunk(root: bytes, tokens: Tokens, extras: bytes = b"") -> bytes:
    """The key of a passage that has no past, one block of any length."""
    return sha256(framed(b"chunk", root, uint32_tokens(tokens).tobytes(), extras)).digest()


def engine(root: bytes, hash: bytes) -> bytes:
    """The key of a block that an engine names by a hash of its own.

    The hash is the only thing that vouches for the tokens, so anything shorter than 256 bits is
    refused with ``ArgumentError``: 64- and 128-bit hashes are not collision-resistant.
    """
    if len(hash) not in ENGINE_HASH_BYTES:
        raise ArgumentError(
            f"an engine's block hash must be a cryptographic one of 32 to 64 bytes, not {len(hash)}"
            " bytes; switch the engine to SHA-256 block hashes, or hand in tokens"
        )
    return sha256(framed(b"engine", root, hash)).digest()


def recompute(kind: KeyKind, parent: bytes, tokens: bytes, extras: bytes) -> bytes:
    """The key that a header must carry.

    ``parent`` is the previous block's key, or h0; ``tokens`` are packed as uint32-LE; for an engine
    key ``extras`` is the engine's hash.  Raises ``ArgumentError`` for an engine's hash that
    ``engine`` refuses.
    """
    if kind is KeyKind.ENGINE:
        return engine(parent, extras)
    if kind is KeyKind.CHUNK:
        return sha256(framed(b"chunk", parent, tokens, extras)).digest()
    return sha256(_BLOCK + parent + framed(tokens, extras)).digest()


def frame_id(key: bytes, part: Part) -> FrameId:
    """What names one frame: a key and one shard of one group of it."""
    return key + bytes(part)


def split_id(frame: FrameId) -> tuple[bytes, Part]:
    """The key and the part of a frame id."""
    return frame[:KEY_BYTES], Part(frame[KEY_BYTES], frame[KEY_BYTES + 1])


def tenant_id(tenant: str) -> bytes:
    """The 16 bytes by which frames name a tenant; zeros for the empty name."""
    return sha256(framed(b"tenant", tenant.encode())).digest()[:16] if tenant else bytes(16)


def uint32_tokens(tokens: Tokens) -> NDArray[np.uint32]:
    """Tokens as contiguous uint32-LE ``[tokens]``; ``ArgumentError`` names the first bad one."""
    if isinstance(tokens, np.ndarray):
        return _checked_array(tokens)
    try:
        packed = array("I", memoryview(tokens) if isinstance(tokens, bytes | bytearray) else tokens)
    except (OverflowError, TypeError) as exc:
        raise ArgumentError(_first_bad(tokens)) from exc
    return np.frombuffer(packed, np.uint32).astype("<u4", copy=False)


def _checked_array(tokens: NDArray[np.integer]) -> NDArray[np.uint32]:
    if tokens.dtype == np.uint32 and tokens.ndim == 1:
        return np.ascontiguousarray(tokens, "<u4")
    if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
        raise ArgumentError(f"tokens must be [n] integers, not {tokens.ndim}-d {tokens.dtype}")
    if tokens.size and (tokens.min() < 0 or tokens.max() > 0xFFFFFFFF):
        raise ArgumentError(_first_bad(tokens.tolist()))
    return np.ascontiguousarray(tokens, "<u4")


def _first_bad(tokens: Sequence[int]) -> str:
    for i, token in enumerate(tokens):
        try:
            array("I", (token,))
        except (OverflowError, TypeError):
            return f"token {i} is {token!r}, which is not an integer in 0..{0xFFFFFFFF}"
    return "tokens must be a sequence of integers"


def _bodies(
    tokens: NDArray[np.uint32], block_tokens: int, extras: Mapping[int, bytes]
) -> list[bytes]:
    """What stands behind the parent in each block's hash: framed tokens and framed extras."""
    if block_tokens < 1:
        raise ArgumentError(f"block_tokens={block_tokens} is less than 1")
    count = len(tokens) // block_tokens
    words = np.zeros((count, block_tokens + 2), "<u4")  # length | tokens | length of no extras
    words[:, 0] = 4 * block_tokens
    words[:, 1:-1] = tokens[: count * block_tokens].reshape(count, block_tokens)
    row = 4 * (block_tokens + 2)
    bodies: list[bytes] = words.view(f"V{row}").ravel().tolist()
    for block, extra in extras.items():
        if block < 0:
            raise ArgumentError(f"extras name block {block}; blocks are counted from 0")
        if block < count:
            bodies[block] = bodies[block][:-4] + framed(extra)
    return bodies
