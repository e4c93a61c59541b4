"""Bundles that were cut, flipped, forged or swapped: refused before anything is stored.

Forgeries carry a checksum that fits, as whoever forges one can make it.
"""

import struct
from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from kvstrata.kvstore.bundle import Bundle
from kvstrata.kvstore.bundle_transfer import export_bundle
from kvstrata.kvstore.errors import BundleError
from kvstrata.kvstore.frame import Header, encode, parse
from kvstrata.kvstore.identity import Identity
from kvstrata.kvstore.layout import Group, Layout
from kvstrata.kvstore.payload import seal
from kvstrata.kvstore.store import Store
from tests.cli.kit import settings
from tests.store.kit import KeyedPages, identity, prompt

SMALL = Layout(
    (
        Group((0, 1), heads=1, head_dim=16, dtype="float32"),
        Group((2,), heads=1, head_dim=16, dtype="bfloat16", kind="window", window=8),
    ),
    block_tokens=8,
)
WHO = identity(SMALL)
_HEAD = 16


class Frame(NamedTuple):
    """One frame of a bundle, taken apart."""

    header: Header
    payload: bytes

    def record(self) -> bytes:
        """Its bytes in a bundle."""
        header = encode(self.header)
        return struct.pack("<IQ", len(header), len(self.payload)) + header + self.payload


Forgery = Callable[[list[Frame]], bytes]
"""Makes a bundle of good frames, which it may change."""


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> list[Frame]:
    """Four blocks of two parts: a chain of three, and a branch after the first."""
    directory = tmp_path_factory.mktemp("store")
    first = prompt(1, 3, layout=SMALL)
    with Store(settings(directory)) as store:
        space = store.space(WHO)
        for tokens in (first, prompt(2, 1, layout=SMALL, after=first[: SMALL.block_tokens])):
            space.save(tokens, KeyedPages(space, tokens))
        export_bundle(store, WHO, directory / "x.kvb")
    with Bundle(directory / "x.kvb") as bundle:
        found = [
            Frame(header, payload[0].tobytes())
            for block in bundle.blocks()
            for header, payload in block.frames
        ]
    assert len(found) == 8
    return found


def built(frames: Sequence[Frame], *, who: Identity = WHO, count: int | None = None) -> bytes:
    """A bundle of these frames, whose checksum fits."""
    text = who.to_json()
    body = b"KVBUNDLE" + struct.pack("<HHI", 1, 0, len(text)) + text
    body += b"".join(frame.record() for frame in frames)
    return closed(body + struct.pack("<IQ", 0, len(frames) if count is None else count))


def closed(body: bytes) -> bytes:
    """The body with the checksum that fits it."""
    return body + sha256(body).digest()


def check(path: Path, data: bytes) -> int:
    """Write and check a bundle; how many blocks it has."""
    path.write_bytes(data)
    with Bundle(path) as bundle:
        return bundle.check()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.kvb"


def test_what_the_tests_build_is_a_bundle(frames: list[Frame], path: Path) -> None:
    assert check(path, built(frames)) == 4
    assert check(path, built([])) == 0


def test_a_cut_bundle_is_refused(frames: list[Frame], path: Path) -> None:
    data = built(frames)
    for length in [*range(0, len(data), 97), len(data) - 32, len(data) - 1]:
        with pytest.raises(BundleError):
            check(path, data[:length])


def test_a_flipped_bit_is_found(frames: list[Frame], path: Path) -> None:
    data = built(frames)
    for at in [*range(0, len(data), 61), len(data) - 33, len(data) - 1]:
        flipped = bytearray(data)
        flipped[at] ^= 1 << at % 8
        with pytest.raises(BundleError):
            check(path, bytes(flipped))


def test_what_follows_the_end_is_refused(frames: list[Frame], path: Path) -> None:
    with pytest.raises(BundleError, match="follow"):
        check(path, built(frames) + b"\0")


def test_only_the_checksum_is_wrong(frames: list[Frame], path: Path) -> None:
    data = built(frames)
    with pytest.raises(BundleError, match="checksum is wrong"):
        check(path, data[:-1] + bytes([data[-1] ^ 1]))


def _forge(change: Callable[[list[Frame]], list[Frame]]) -> Forgery:
    return lambda frames: built(change(list(frames)))


def _header(change: Callable[[Header], Header], number: int = 0) -> Forgery:
    def forge(frames: list[Frame]) -> bytes:
        header, payload = frames[number]
        frames[number] = Frame(change(header), payload)
        return built(frames)

    return forge


FORGERIES: dict[str, Forgery] = {
    "another count": lambda frames: built(frames, count=7),
    "a part is missing at the end": _forge(lambda frames: frames[:-1]),
    "a part is missing in the middle": _forge(lambda frames: [*frames[:3], *frames[4:]]),
    "parts are swapped": _forge(lambda f: [f[1], f[0], *f[2:]]),
    "a part of another block": _forge(lambda f: [f[0], f[3], f[2], f[1], *f[4:]]),
    "a block without the one before": _forge(lambda frames: frames[2:]),
    "children before parents": _forge(lambda f: [*f[2:4], *f[:2], *f[4:]]),
    "another identity's frames": lambda frames: built(frames, who=identity(SMALL, model=2)),
    "another tenant's frames": lambda frames: built(frames, who=identity(SMALL, tenant="acme")),
    "a private identity": lambda frames: built(
        frames, who=replace(WHO, weights="private:" + "0" * 32)
    ),
    "another block size": lambda frames: built(
        frames, who=replace(WHO, layout=replace(SMALL, block_tokens=16))
    ),
    "another dtype": lambda frames: built(
        frames,
        who=replace(
            WHO,
            layout=replace(
                SMALL, groups=(replace(SMALL.groups[0], dtype="float16"), SMALL.groups[1])
            ),
        ),
    ),
    "another key": _header(lambda h: h._replace(key=bytes(32)), 0),
    "another parent": _header(lambda h: h._replace(parent=b"\1" * 32), 2),
    "another position": _header(lambda h: h._replace(position=16), 2),
    "a position far away": _header(lambda h: h._replace(position=8 << 40), 2),
    "another root": _header(lambda h: h._replace(root=bytes(16)), 2),
    "another tenant": _header(lambda h: h._replace(tenant=b"\1" * 16), 0),
    "another group": _header(lambda h: h._replace(group=9), 0),
    "more shards": _header(lambda h: h._replace(shards=2), 0),
    "no checksums": _header(lambda h: h._replace(has_checksums=False), 0),
    "a foreign codec": lambda frames: _coded(frames, 999),
    "a codec that is not what the bytes are in": lambda frames: _coded(frames, 1),
}


def _coded(frames: list[Frame], codec: int) -> bytes:
    header, payload = frames[0]
    meta, base = header.segments
    changed = header._replace(segments=(meta, base._replace(codec=codec)))
    return built([Frame(changed, payload), *frames[1:]])


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery_is_refused(frames: list[Frame], path: Path, name: str) -> None:
    with pytest.raises(BundleError):
        check(path, FORGERIES[name](list(frames)))


def test_kv_of_another_shape_under_a_right_key_is_refused(frames: list[Frame], path: Path) -> None:
    header, payload = frames[0]
    short = payload[:-64]
    rows = [
        row._replace(length=row.length - 64) if row.kind == 1 else row for row in header.segments
    ]
    changed = header._replace(segments=tuple(rows), has_checksums=False)
    sealed = seal(changed, [np.frombuffer(short, np.uint8)])
    assert parse(encode(sealed)).payload_bytes == len(short)
    with pytest.raises(BundleError, match="does not decode"):
        check(path, built([Frame(sealed, short), *frames[1:]]))


@pytest.mark.parametrize(
    ("header", "payload"),
    [(191, 0), (4097, 0), (1 << 31, 0), (400, 1 << 40), (400, (1 << 64) - 1), (4096, 1 << 62)],
)
def test_lengths_that_cannot_be_allocate_nothing(path: Path, header: int, payload: int) -> None:
    data = built([])[: -12 - 32] + struct.pack("<IQ", header, payload)
    with pytest.raises(BundleError):
        check(path, closed(data + bytes(5000)))


@pytest.mark.parametrize("length", [0, 1 << 20 | 1, 1 << 31])
def test_an_identity_of_an_absurd_length_is_refused(path: Path, length: int) -> None:
    with pytest.raises(BundleError):
        check(path, closed(b"KVBUNDLE" + struct.pack("<HHI", 1, 0, length) + bytes(100)))


def test_a_layout_whose_blocks_are_absurd_is_refused(path: Path) -> None:
    group = Group((0,), heads=65_535, head_dim=65_535, dtype="float32")
    absurd = replace(WHO, layout=Layout((group,), block_tokens=1 << 30))
    with pytest.raises(BundleError, match="too large"):
        check(path, built([], who=absurd))


@examples(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whatever_lies_in_the_file_is_a_bundle_or_refused(
    frames: list[Frame], path: Path, data: st.DataObject
) -> None:
    whole = built(frames)
    start = data.draw(st.integers(0, len(whole)))
    length = data.draw(st.integers(0, 64))
    forged = whole[:start] + data.draw(st.binary(max_size=64)) + whole[start + length :]
    try:
        check(path, closed(forged[:-32]))
    except BundleError:
        return
    assert forged[:-32] == whole[:-32]
