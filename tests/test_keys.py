"""Keys: every field counts, and none can stand in for another."""

import struct
from array import array
from hashlib import sha256
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstrata.kvstore import keys
from kvstrata.kvstore.errors import ArgumentError
from kvstrata.kvstore.keys import KeyKind
from kvstrata.kvstore.layout import Part

ROOT = bytes(range(32))
token_lists = st.lists(st.integers(0, 2**32 - 1), max_size=80)


def by_hand(*fields: bytes) -> bytes:
    """SHA-256 over framed fields, written the long way."""
    whole = b""
    for field in fields:
        whole += struct.pack("<I", len(field)) + field
    return sha256(whole).digest()


def packed(tokens: list[int]) -> bytes:
    """uint32-LE, the long way."""
    return b"".join(struct.pack("<I", token) for token in tokens)


@given(token_lists, st.integers(1, 20), st.dictionaries(st.integers(0, 90), st.binary(max_size=9)))
def test_a_chain_is_what_the_format_says(
    tokens: list[int], block_tokens: int, extras: dict[int, bytes]
) -> None:
    expected, parent = [], ROOT
    for block in range(len(tokens) // block_tokens):
        body = packed(tokens[block * block_tokens : (block + 1) * block_tokens])
        parent = by_hand(b"block", parent, body, extras.get(block, b""))
        expected.append(parent)
    assert keys.chain(ROOT, tokens, block_tokens, extras) == expected


def test_a_chunk_and_an_engines_key_are_what_the_format_says() -> None:
    assert keys.chunk(ROOT, [1, 2, 3], b"x") == by_hand(b"chunk", ROOT, packed([1, 2, 3]), b"x")
    assert keys.engine(ROOT, b"h" * 32) == by_hand(b"engine", ROOT, b"h" * 32)


@given(token_lists, token_lists)
def test_two_prompts_share_keys_exactly_as_far_as_they_agree(a: list[int], b: list[int]) -> None:
    ours, theirs = keys.chain(ROOT, a, 4), keys.chain(ROOT, b, 4)
    agree = 0
    while agree < min(len(a), len(b)) and a[agree] == b[agree]:
        agree += 1
    for block, (x, y) in enumerate(zip(ours, theirs, strict=False)):
        assert (x == y) == ((block + 1) * 4 <= agree)


def test_a_longer_prompt_keeps_the_keys_of_its_prefix() -> None:
    tokens = list(range(1000))
    whole = keys.chain(ROOT, tokens, 16)
    assert keys.chain(ROOT, tokens[:500], 16) == whole[: 500 // 16]
    assert keys.chain(whole[9], tokens[160:], 16) == whole[10:]


def test_a_partial_block_has_no_key() -> None:
    assert len(keys.chain(ROOT, range(31), 16)) == 1
    assert keys.chain(ROOT, range(15), 16) == []
    assert keys.chain(ROOT, [], 16) == []


@pytest.mark.parametrize(
    "same",
    [
        tuple(range(64)),
        range(64),
        array("I", range(64)),
        array("q", range(64)),
        bytes(range(64)),
        np.arange(64),
        np.arange(64, dtype=np.int32),
        np.arange(64, dtype=np.uint8),
        np.arange(64, dtype=">i8"),
        np.arange(128)[::2] // 2,
    ],
    ids=lambda tokens: type(tokens).__name__,
)
def test_the_container_of_the_tokens_does_not_matter(same: keys.Tokens) -> None:
    assert keys.chain(ROOT, same, 16) == keys.chain(ROOT, list(range(64)), 16)


@pytest.mark.parametrize(
    ("tokens", "index"),
    [
        ([0, 1, -1], 2),
        ([2**32], 0),
        ([0, 1.0], 1),
        ([0, "a"], 1),
        ([None], 0),
        ("ab", 0),
        (np.array([5, -7]), 1),
        (np.array([5, 2**32]), 1),
        (np.array([2**64 - 1], np.uint64), 0),
    ],
)
def test_a_token_that_is_no_uint32_is_refused_by_its_index(tokens: keys.Tokens, index: int) -> None:
    with pytest.raises(ArgumentError, match=f"token {index} is"):
        keys.chain(ROOT, tokens, 1)


@pytest.mark.parametrize("tokens", [np.zeros(4), np.zeros((2, 2), np.int64), np.zeros(2, np.bool_)])
def test_an_array_that_is_no_list_of_integers_is_refused(tokens: keys.Tokens) -> None:
    with pytest.raises(ArgumentError, match="integers"):
        keys.chain(ROOT, tokens, 1)


def test_impossible_blocks_are_refused() -> None:
    with pytest.raises(ArgumentError, match="block_tokens=0"):
        keys.chain(ROOT, [1], 0)
    with pytest.raises(ArgumentError, match="block -1"):
        keys.chain(ROOT, [1], 1, {-1: b"x"})


def test_an_extra_changes_its_block_and_all_after_it() -> None:
    plain = keys.chain(ROOT, range(64), 16)
    marked = keys.chain(ROOT, range(64), 16, {2: b"image"})
    assert marked[:2] == plain[:2]
    assert not set(marked[2:]) & set(plain[2:])
    assert keys.chain(ROOT, range(64), 16, {2: b""}) == plain


def test_extras_and_tokens_cannot_stand_in_for_each_other() -> None:
    assert keys.chunk(ROOT, [1, 2], packed([3])) != keys.chunk(ROOT, [1, 2, 3])


def test_kinds_of_keys_never_meet() -> None:
    tokens, extras = packed(list(range(8))), b"h" * 32
    assert len({keys.recompute(kind, ROOT, tokens, extras) for kind in KeyKind}) == 3


@given(token_lists.filter(bool), st.binary(max_size=40))
def test_what_is_recomputed_from_a_header_is_what_was_derived(
    tokens: list[int], extras: bytes
) -> None:
    raw = keys.uint32_tokens(tokens).tobytes()
    (block,) = keys.chain(ROOT, tokens, len(tokens), {0: extras})
    assert keys.recompute(KeyKind.BLOCK, ROOT, raw, extras) == block
    assert keys.recompute(KeyKind.CHUNK, ROOT, raw, extras) == keys.chunk(ROOT, tokens, extras)


@pytest.mark.parametrize("length", [0, 8, 16, 31, 65])
def test_an_engines_hash_that_is_not_cryptographic_is_refused(length: int) -> None:
    with pytest.raises(ArgumentError, match="cryptographic"):
        keys.engine(ROOT, bytes(length))


def test_an_engines_hash_counts_whole() -> None:
    hashes = [bytes(32), bytes(33), b"\1" + bytes(31), bytes(64)]
    assert len({keys.engine(ROOT, h) for h in hashes}) == len(hashes)


def test_a_frame_id_names_key_group_and_shard() -> None:
    fid = keys.frame_id(ROOT, Part(3, 254))
    assert fid == ROOT + b"\x03\xfe"
    assert keys.split_id(fid) == (ROOT, Part(3, 254))


def test_a_tenants_number_tells_names_apart_and_is_zero_for_none() -> None:
    names = ["", "a", "b", "ab", "\u00e9"]
    numbers = [keys.tenant_id(name) for name in names]
    assert numbers[0] == bytes(16)
    assert len(set(numbers)) == len(names)
    assert all(len(number) == 16 for number in numbers)
    assert numbers[1] == by_hand(b"tenant", b"a")[:16]


def test_every_block_names_the_one_before_it() -> None:
    chain = keys.chain(ROOT, range(64), 16)
    for block, (parent, key) in enumerate(pairwise([ROOT, *chain])):
        raw = packed(list(range(16 * block, 16 * block + 16)))
        assert keys.recompute(KeyKind.BLOCK, parent, raw, b"") == key
