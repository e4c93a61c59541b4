"""Identities: who differs in anything shares nothing."""

import json
from dataclasses import fields, replace
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstrata.kvstore import keys
from kvstrata.kvstore.errors import IdentityError
from kvstrata.kvstore.identity import Identity, private_weights
from kvstrata.kvstore.layout import Group, Layout

LAYOUT = Layout((Group((0, 1), heads=4, head_dim=64, dtype="bfloat16"),))
IDENTITY = Identity(
    weights="ab" * 32,
    layout=LAYOUT,
    config="cd" * 32,
    kv_scales="1.0",
    adapter="ef" * 32,
    producer="transformers/sdpa/float32",
    epoch=3,
    tenant="alice",
    salt="pepper",
)
OTHER = {
    "weights": "ac" * 32,
    "layout": replace(LAYOUT, shards=2),
    "config": "ce" * 32,
    "kv_scales": "1.5",
    "adapter": "",
    "producer": "transformers/eager/float32",
    "epoch": 4,
    "tenant": "bob",
    "salt": "",
}


@pytest.mark.parametrize("field", sorted(OTHER))
def test_identities_that_differ_in_one_field_share_no_key(field: str) -> None:
    other = replace(IDENTITY, **{field: OTHER[field]})  # type: ignore[arg-type]
    assert other.root != IDENTITY.root
    assert not set(keys.chain(other.root, range(64), 16)) & set(
        keys.chain(IDENTITY.root, range(64), 16)
    )
    assert IDENTITY.differences(other) == ("layout.shards" if field == "layout" else field,)


def test_no_field_is_left_untested() -> None:
    assert {f.name for f in fields(Identity)} == set(OTHER)


def test_equal_identities_have_one_root() -> None:
    assert replace(IDENTITY).root == IDENTITY.root
    assert IDENTITY.differences(replace(IDENTITY)) == ()


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@given(st.tuples(texts, texts, texts, texts), st.tuples(texts, texts, texts, texts))
def test_no_two_ways_to_split_text_over_fields_give_one_root(
    ours: tuple[str, ...], theirs: tuple[str, ...]
) -> None:
    names = ("adapter", "producer", "tenant", "salt")
    a, b = (replace(IDENTITY, **dict(zip(names, v, strict=True))) for v in (ours, theirs))  # type: ignore[arg-type]
    assert (a.root == b.root) == (ours == theirs)


def test_text_that_moves_from_one_field_to_the_next_changes_the_root() -> None:
    assert replace(IDENTITY, tenant="alicep", salt="epper").root != IDENTITY.root


def test_a_difference_in_the_layout_is_named_down_to_the_field() -> None:
    group = replace(LAYOUT.groups[0], dtype="float16", head_dim=32)
    other = replace(IDENTITY, layout=Layout((group,), block_tokens=LAYOUT.block_tokens), epoch=9)
    assert IDENTITY.differences(other) == ("layout.head_dim", "layout.dtype", "epoch")
    more = replace(LAYOUT, groups=LAYOUT.groups * 2)
    assert IDENTITY.differences(replace(IDENTITY, layout=more)) == ("layout.groups",)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("weights", ""),
        ("weights", "meta-llama/Llama-3.1-8B"),
        ("weights", "AB" * 32),
        ("weights", "ab" * 31),
        ("weights", "ab" * 32 + "\n"),
        ("weights", "private:"),
        ("weights", 5),
        ("layout", None),
        ("config", ""),
        ("config", None),
        ("producer", b"bytes"),
        ("salt", "\ud800"),
        ("tenant", "x" * 5000),
        ("epoch", -1),
        ("epoch", 1 << 64),
        ("epoch", True),
        ("epoch", "1"),
    ],
)
def test_what_cannot_tell_models_apart_is_refused(field: str, value: object) -> None:
    with pytest.raises(IdentityError):
        replace(IDENTITY, **{field: value})  # type: ignore[arg-type]


def test_a_model_of_unknown_weights_is_private_and_shares_with_nobody() -> None:
    ours, theirs = (replace(IDENTITY, weights=private_weights()) for _ in range(2))
    assert ours.is_private
    assert not IDENTITY.is_private
    assert ours.root != theirs.root


def test_a_sampled_digest_never_equals_a_full_one() -> None:
    sampled = replace(IDENTITY, weights="sampled:" + IDENTITY.weights)
    assert sampled.root != IDENTITY.root


def test_an_identity_survives_json() -> None:
    again = Identity.from_json(IDENTITY.to_json())
    assert again == IDENTITY
    assert again.root == IDENTITY.root


def test_a_root_stays_what_it_was() -> None:
    """A changed root would make everything that is stored unreachable."""
    values = [
        *("root", "ab" * 32, LAYOUT.fingerprint(), "cd" * 32, "1.0", "ef" * 32),
        *("transformers/sdpa/float32", "3", "alice", "pepper"),
    ]
    written = b"".join(len(v).to_bytes(4, "little") + v.encode() for v in values)
    assert IDENTITY.root == sha256(written).digest()


def _edited(**changes: object) -> bytes:
    return json.dumps({**json.loads(IDENTITY.to_json()), **changes}, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b"[" * 100_000,
        _edited(unknown="field"),
        _edited(epoch="3"),
        _edited(epoch=3.0),
        _edited(weights="a name"),
        _edited(config=""),
        _edited(layout={"groups": []}),
        _edited(layout={"groups": [], "block_tokens": 64, "shards": 1}),
        IDENTITY.to_json() + b" ",
        IDENTITY.to_json()[:-1],
        IDENTITY.to_json().replace(b'"salt":"pepper"', b'"salt":"mint","salt":"pepper"'),
        IDENTITY.to_json().replace(b',"salt":"pepper"', b""),
    ],
)
def test_json_that_is_not_exactly_an_identity_is_refused(data: bytes) -> None:
    with pytest.raises(IdentityError):
        Identity.from_json(data)


@given(st.binary(max_size=400))
def test_random_bytes_are_no_identity(data: bytes) -> None:
    with pytest.raises(IdentityError):
        Identity.from_json(data)
