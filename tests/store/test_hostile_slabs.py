"""Slab files forged by someone who knows the format, the seeds and the checksums.

Every frame here verifies in itself; what is wrong is what it claims.  None may raise, end a thread
or give an engine anything but the right bytes.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kvstrata.compression.codec import BASE
from kvstrata.kvstore.frame import Header, arrange, checksum, encode, parse, with_checksums
from kvstrata.kvstore.meta import Meta, encode_meta
from kvstrata.kvstore.segments import SegmentEntry
from kvstrata.kvstore.superblock import Superblock
from tests.store import slabs
from tests.store.kit import Bytes, Scene, identity, prompt, restore, save

Forgery = Callable[[Header, Bytes], Header]


def _tokens(block: int) -> bytes:
    step = np.array(prompt(1, 4)[64 * block : 64 * (block + 1)], "<u4")
    return step.tobytes()


def _reseal(header: Header, payload: Bytes) -> Header:
    """The header with the checksums that its payload has."""
    return with_checksums(
        header,
        [
            checksum(header.frame_id, payload[s.offset : s.offset + s.length].tobytes())
            for s in header.segments
            if not s.is_inline
        ],
    )


def _forge(directory: Path, key: bytes, forgery: Forgery) -> None:
    """Change one frame as the forger likes, and make it verify again."""
    frame = slabs.find(directory, key)
    headers = bytearray((directory / "headers.kvs").read_bytes())
    superblock = Superblock.parse(bytes(headers[:4096]))
    raw = bytes(headers[frame.header_at : frame.header_at + slabs.SLOT])
    header = parse(raw, pages=superblock.pages, slab=superblock.seed)
    pages = np.fromfile(directory / "pages.kvs", np.uint8)
    start = frame.payload_at(0)
    payload = pages[start : start + frame.payload]
    forged = encode(_reseal(forgery(header, payload), payload), superblock.seed)
    headers[frame.header_at : frame.header_at + slabs.SLOT] = forged.ljust(slabs.SLOT, b"\0")
    (directory / "headers.kvs").write_bytes(headers)
    pages.tofile(directory / "pages.kvs")


def _with_base(header: Header, *bases: SegmentEntry) -> Header:
    rows, inline = arrange(
        header.frame_id, encode_meta(Meta(_tokens(header.position // 64))), bases
    )
    return header._replace(
        segments=rows,
        inline=inline,
        extents=((header.extents[0][0], -(-sum(b.length for b in bases) // slabs.PAGE)),),
    )


FORGERIES: dict[str, Forgery] = {
    "a base that is shorter than a block": lambda h, _: _with_base(
        h, SegmentEntry(BASE, 0, 0, 0, 4, 0, 255, 0, 1000)
    ),
    "a base of one byte": lambda h, _: _with_base(h, SegmentEntry(BASE, 0, 0, 0, 4, 0, 255, 0, 1)),
    "a base of fewer layers": lambda h, _: _with_base(
        h, SegmentEntry(BASE, 0, 0, 0, 2, 0, 255, 0, 128 << 10)
    ),
    "layers that the group has not": lambda h, _: _with_base(
        h, SegmentEntry(BASE, 0, 0, 100, 104, 0, 255, 0, 128 << 10)
    ),
    "two bases of the same layers": lambda h, _: _with_base(
        h,
        SegmentEntry(BASE, 0, 0, 0, 4, 0, 255, 0, 64 << 10),
        SegmentEntry(BASE, 0, 0, 0, 4, 0, 255, 64 << 10, 64 << 10),
    ),
    "a codec that there is none of": lambda h, _: _with_base(
        h, SegmentEntry(BASE, 0, 999, 0, 4, 0, 255, 0, 128 << 10)
    ),
    "raw bytes that claim to be encoded": lambda h, _: _with_base(
        h, SegmentEntry(BASE, 0, 1, 0, 4, 0, 255, 0, 128 << 10)
    ),
    "another generation": lambda h, _: h._replace(generation=h.generation + 5),
    "a generation before the first": lambda h, _: h._replace(generation=0),
    "the last generation there can be": lambda h, _: h._replace(generation=(1 << 64) - 1),
    "an expiry long ago": lambda h, _: h._replace(expiry=1.0),
    "another tenant": lambda h, _: h._replace(tenant=b"t" * 16),
    "another number of shards": lambda h, _: h._replace(shards=7),
    "another position": lambda h, _: h._replace(position=h.position + 64),
}


@pytest.mark.parametrize("is_indexed", [True, False], ids=["index", "no index"])
@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_frame_gives_right_bytes_or_none(
    scene: Scene, forgery: str, is_indexed: bool
) -> None:
    tokens = prompt(1, 4)
    with scene.open() as store:
        space = store.space(identity())
        save(space, tokens)
        key = space.match(tokens).keys[2]
    _forge(scene.dir, key, FORGERIES[forgery])
    if not is_indexed:
        shutil.rmtree(scene.dir / "index")
    with scene.open() as store:
        space = store.space(identity())
        assert restore(space, tokens) in (0, 64, 128, 192, 256)
        store.audit()
        for _ in range(2):
            assert save(space, tokens) == 4
            restore(space, tokens)
        assert restore(space, tokens) == 256
        assert save(space, prompt(2, 2)) == 2
        assert store.flush(10)
        store.audit()


def test_the_forger_can_do_it(scene: Scene) -> None:
    """Bytes that are forged with their checksums are served: only the medium is not trusted."""
    tokens = prompt(1, 4)
    with scene.open() as store:
        space = store.space(identity())
        save(space, tokens)
        key = space.match(tokens).keys[0]

    def forgery(header: Header, payload: Bytes) -> Header:
        payload[5] ^= 1
        return header

    _forge(scene.dir, key, forgery)
    with scene.open() as store, pytest.raises(AssertionError, match="wrong bytes"):
        restore(store.space(identity()), tokens)


def test_a_header_of_one_block_under_the_key_of_another_is_refused(scene: Scene) -> None:
    """A key that its parent and tokens do not give."""
    tokens = prompt(1, 4)
    with scene.open() as store:
        space = store.space(identity())
        save(space, tokens)
        keys = space.match(tokens).keys

    def other_tokens(header: Header, _: object) -> Header:
        meta = encode_meta(Meta(_tokens(3)))
        segments, inline = arrange(header.frame_id, meta, header.segments[1:])
        return header._replace(segments=segments, inline=inline)

    _forge(scene.dir, keys[2], other_tokens)
    for is_indexed in (True, False):
        if not is_indexed:
            shutil.rmtree(scene.dir / "index")
        with scene.open() as store:
            assert restore(store.space(identity()), tokens) == 128


def test_two_frames_that_claim_each_others_pages_serve_no_wrong_byte(scene: Scene) -> None:
    tokens = prompt(1, 4)
    with scene.open() as store:
        space = store.space(identity())
        save(space, tokens)
        keys = space.match(tokens).keys
    other = slabs.find(scene.dir, keys[1]).extents
    _forge(scene.dir, keys[2], lambda header, _: header._replace(extents=other))
    for is_indexed in (True, False):
        if not is_indexed:
            shutil.rmtree(scene.dir / "index")
        with scene.open() as store:
            assert restore(store.space(identity()), tokens) in range(0, 257, 64)
            store.audit()
