"""The meta segment of a frame: what its key was computed from, its tags and attachments' names.

Byte by byte in docs/format.md.  Parsed without trust: every count is checked against the bytes
that are left before anything is read.
"""

import struct
from collections.abc import Sequence
from typing import NamedTuple

from .errors import ArgumentError, FrameError

_U32 = struct.Struct("<I")
_U16 = struct.Struct("<H")
_EMPTY = bytes(2)
_LIMIT = 0xFFFF


class Meta(NamedTuple):
    """What a frame says in words: ``tokens`` are packed as uint32-LE."""

    tokens: bytes
    extras: bytes = b""
    tags: tuple[str, ...] = ()
    names: tuple[str, ...] = ()  # of the attachment segments, in their order


def encode_meta(meta: Meta) -> bytes:
    """The segment's bytes; ``ArgumentError`` for a tag or name that cannot be written."""
    tokens, extras, tags, names = meta
    if len(tokens) % 4:
        raise ArgumentError(f"packed tokens have {len(tokens)} bytes, not a multiple of 4")
    return b"".join(
        (
            _U32.pack(len(tokens) // 4),
            tokens,
            _U32.pack(len(extras)),
            extras,
            _encode_words(tags) if tags else _EMPTY,
            _encode_words(names) if names else _EMPTY,
        )
    )


def parse_meta(data: bytes | memoryview) -> Meta:
    """Read a meta segment; ``FrameError`` says what is wrong with it."""
    data = bytes(data)
    tokens, at = _take(data, 0, 4 * _number(_U32, data, 0))
    extras, at = _take(data, at, _number(_U32, data, at))
    tags, at = _parse_words(data, at)
    names, at = _parse_words(data, at)
    if at != len(data):
        raise FrameError(f"{len(data) - at} bytes follow the meta segment's end")
    return Meta(tokens, extras, tags, names)


def _encode_words(words: Sequence[str]) -> bytes:
    if len(words) > _LIMIT:
        raise ArgumentError(f"{len(words)} tags or names; at most {_LIMIT} fit a frame")
    parts = [_U16.pack(len(words))]
    for word in words:
        try:
            data = word.encode()
        except UnicodeEncodeError as exc:
            raise ArgumentError(f"{word!r} cannot be written as UTF-8") from exc
        if not 0 < len(data) <= _LIMIT or b"\0" in data:
            raise ArgumentError(f"a tag or name has 1 to {_LIMIT} bytes, none of them zero")
        parts += (_U16.pack(len(data)), data)
    return b"".join(parts)


def _number(shape: struct.Struct, data: bytes, at: int) -> int:
    if at + shape.size > len(data):
        raise FrameError("the meta segment ends before its fields do")
    value: int = shape.unpack_from(data, at)[0]
    return value


def _take(data: bytes, at: int, length: int) -> tuple[bytes, int]:
    """The bytes behind a u32 at ``at``, and where they end."""
    start = at + _U32.size
    if length > len(data) - start:
        raise FrameError(f"the meta segment names {length} bytes and has {len(data) - start}")
    return data[start : start + length], start + length


def _parse_words(data: bytes, at: int) -> tuple[tuple[str, ...], int]:
    count = _number(_U16, data, at)
    at += _U16.size
    words = []
    for _ in range(count):
        length = _number(_U16, data, at)
        at += _U16.size
        if not 0 < length <= len(data) - at or b"\0" in data[at : at + length]:
            raise FrameError(f"no word of {length} bytes where {len(data) - at} are left")
        try:
            words.append(data[at : at + length].decode())
        except UnicodeDecodeError as exc:
            raise FrameError("a tag or name is not UTF-8") from exc
        at += length
    return tuple(words), at
