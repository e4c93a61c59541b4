"""Tombstones: what was dropped, for as long as an old header or index could bring it back.

An append-only log in each stripe's directory (docs/format.md).  A drop must never be forgotten, a
cached block may: so a log that is not whole to its last acknowledged byte is not repaired, it
makes the stripe forget everything (``State.DAMAGED``).  The one exception is a record that the
file's end cuts off: its append was never acknowledged.

Each record's checksum is seeded with the one before it, so that a record which was changed, moved
or taken out is found even where all the others are good.
"""

import struct
from collections.abc import Iterable
from enum import Enum, IntEnum
from math import inf
from typing import NamedTuple

from xxhash import xxh3_64_intdigest

from .errors import ArgumentError, FrameError

FILE_HEAD_BYTES = 40
MAX_SUBJECT_BYTES = 65_536

_FILE_HEAD = struct.Struct("<8sH6s16s")
_FILE_MAGIC = b"KVSTOMB\0"
_HEAD = struct.Struct("<4sB3sIIQd")
_MAGIC = b"TOMB"
_VERSION = 1
_U64 = struct.Struct("<Q")
_SUM_AT = 12  # the head's checksum


class Kind(IntEnum):
    """What a subject names."""

    KEY = 1
    TAG = 2
    TENANT = 3
    ROOT = 4


_SUBJECT_BYTES = {
    Kind.KEY: range(32, 33),
    Kind.TAG: range(17, MAX_SUBJECT_BYTES + 1),
    Kind.TENANT: range(16, 17),
    Kind.ROOT: range(16, 17),
}


class Tombstone(NamedTuple):
    """Frames that ``subject`` names are dead up to ``generation``, itself included."""

    kind: Kind
    subject: bytes
    generation: int
    time: float  # unix seconds


class State(Enum):
    """How much of a log can be believed."""

    WHOLE = "whole"
    TORN = "torn"  # ends in a record that was never acknowledged
    DAMAGED = "damaged"  # what was dropped is not known


class Parsed(NamedTuple):
    """A log as it was read; of a damaged one ``records`` are those before the damage."""

    state: State
    records: tuple[Tombstone, ...]
    end: int  # bytes that hold good records; the next one goes here
    seed: int  # for the next record's checksum


def tag_subject(tenant: bytes, tag: str) -> bytes:
    """The subject of a tag's tombstone; ``tenant`` is the tenant's number, 16 bytes."""
    return tenant + tag.encode()


def encode_head(slab: bytes) -> tuple[bytes, int]:
    """The beginning of a log beside the slab with this uuid, and the first record's seed."""
    head = _FILE_HEAD.pack(_FILE_MAGIC, _VERSION, bytes(6), slab)
    seed = xxh3_64_intdigest(head)
    return head + _U64.pack(seed), seed


def encode_records(records: Iterable[Tombstone], seed: int) -> tuple[bytes, int]:
    """Records end to end, behind the one that left ``seed``, and the seed for the next.

    Raises ``ArgumentError`` for a subject whose length does not fit its kind.
    """
    parts: list[bytes] = []
    for kind, subject, generation, time in records:
        if len(subject) not in _SUBJECT_BYTES[kind]:
            raise ArgumentError(f"{len(subject)} bytes are no subject of a {kind.name} tombstone")
        head = bytearray(_HEAD.pack(_MAGIC, kind, bytes(3), len(subject), 0, generation, time))
        struct.pack_into("<I", head, _SUM_AT, _head_sum(head))
        body = bytes(head) + subject
        seed = xxh3_64_intdigest(body, seed)
        parts += (body, _U64.pack(seed))
    return b"".join(parts), seed


def parse(data: bytes, slab: bytes) -> Parsed:
    """Read a log beside the slab with this uuid; never raises, the state says what to believe."""
    head, seed = encode_head(slab)
    if data[:FILE_HEAD_BYTES] != head:
        return Parsed(State.DAMAGED, (), 0, 0)
    records: list[Tombstone] = []
    at = FILE_HEAD_BYTES
    while at < len(data):
        try:
            record, end = _parse_record(data, at, seed)
        except FrameError:
            return Parsed(State.DAMAGED, tuple(records), at, seed)
        if record is None:
            return Parsed(State.TORN, tuple(records), at, seed)
        records.append(record)
        seed = _U64.unpack_from(data, end - _U64.size)[0]
        at = end
    return Parsed(State.WHOLE, tuple(records), at, seed)


def _parse_record(data: bytes, at: int, seed: int) -> tuple[Tombstone | None, int]:
    """The record at ``at`` and where it ends; None where the file's end cuts it off."""
    head = data[at : at + _HEAD.size]
    if len(head) < _HEAD.size:
        if head[:4] != _MAGIC[: len(head)]:
            raise FrameError("no record of ours")
        return None, at
    magic, kind, zero, length, found, generation, time = _HEAD.unpack(head)
    if magic != _MAGIC or zero != bytes(3) or found != _head_sum(head):
        raise FrameError("the head of a tombstone does not match its checksum")
    if kind not in _SUBJECT_BYTES or length not in _SUBJECT_BYTES[Kind(kind)]:
        raise FrameError(f"kind {kind} with a subject of {length} bytes")
    if not 0 <= time < inf:
        raise FrameError("the time of a tombstone is no time")
    end = at + _HEAD.size + length
    if end + _U64.size > len(data):
        return None, at
    if xxh3_64_intdigest(data[at:end], seed) != _U64.unpack_from(data, end)[0]:
        raise FrameError("a tombstone does not match its checksum")
    subject = data[at + _HEAD.size : end]
    return Tombstone(Kind(kind), subject, generation, time), end + _U64.size


def _head_sum(head: bytes | bytearray) -> int:
    covered = bytes(head[:_SUM_AT]) + bytes(head[_SUM_AT + 4 : _HEAD.size])
    found: int = xxh3_64_intdigest(covered) & 0xFFFFFFFF
    return found
