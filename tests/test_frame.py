"""Frames: what is written is read again, byte for byte as docs/format.md has it."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from kvstrata.compression.codec import ATTACHMENT, BASE, REFINEMENT
from kvstrata.kvstore import keys
from kvstrata.kvstore.errors import ArgumentError, FrameError
from kvstrata.kvstore.frame import (
    Header,
    arrange,
    checksum,
    encode,
    locate,
    parse,
    parse_record,
    verify_key,
    verify_segment,
    with_checksums,
    without_trailing,
)
from kvstrata.kvstore.keys import KeyKind
from kvstrata.kvstore.layout import Part
from kvstrata.kvstore.meta import Meta, encode_meta, parse_meta
from kvstrata.kvstore.segments import INLINE, META, SegmentEntry
from kvstrata.kvstore.slab import MAX_EXTENTS, SLOT_BYTES, pages_for

ROOT = bytes(range(32))
PAGES = 1 << 20
SLAB = 0xDEADBEEF
BASE_ROW = SegmentEntry(BASE, layer_end=32, fidelity=255, length=2 << 20)
ATTACHED = SegmentEntry(ATTACHMENT, length=300)
REFINED = SegmentEntry(REFINEMENT, layer_end=32, fidelity=255, length=100_000)
COARSE = BASE_ROW._replace(fidelity=40, length=50_000)


def header_of(
    *rows: SegmentEntry, tokens: int = 16, meta: Meta | None = None, fidelity: int = 40
) -> Header:
    """A first block's header in a slab of ``PAGES`` pages, its payload in one run."""
    raw = keys.uint32_tokens(range(tokens)).tobytes()
    said = meta or Meta(raw)
    key = keys.recompute(KeyKind.BLOCK, ROOT, said.tokens, said.extras)
    fid = keys.frame_id(key, Part(1, 2))
    segments, inline = arrange(fid, encode_meta(said), rows or (BASE_ROW,))
    header = Header(
        key, ROOT, ROOT[:16], keys.tenant_id("alice"), 1, 2, 4, fidelity, KeyKind.BLOCK, tokens, 0,
        7, 1e9, 2e9, segments, inline=inline,
    )  # fmt: skip
    return header._replace(extents=((5, pages_for(header.payload_bytes)),))


def reencoded(header: Header) -> Header:
    """Through bytes and back, in a slot whose rest is zero."""
    return parse(encode(header, SLAB).ljust(SLOT_BYTES, b"\0"), pages=PAGES, slab=SLAB)


def test_a_frame_is_written_as_the_format_says() -> None:
    header = header_of()
    raw = encode(header, SLAB)
    body, meta = raw[:280], raw[280:]
    assert body[:8] == b"KVSTRATA"
    assert struct.unpack_from("<Q", body, 8)[0] == xxh3_64_intdigest(body[16:], SLAB)
    assert struct.unpack_from("<HHI", body, 16) == (1, 0, 280)
    assert body[24:56] == header.key
    assert body[56:88] == ROOT
    assert body[88:104] == ROOT[:16]
    assert body[104:120] == keys.tenant_id("alice")
    assert list(body[120:128]) == [1, 2, 4, 40, 0, 0, 0, 0]
    assert struct.unpack_from("<IIQQddQHH", body, 128) == (
        16, len(meta), 0, 7, 1e9, 2e9, 2 << 20, 2, 1,
    )  # fmt: skip
    assert body[180:192] == bytes(12)
    seed = int.from_bytes(header.key[:8], "little") ^ 0x0102
    taken = xxh3_64_intdigest(meta, seed)
    assert body[192:232] == struct.pack("<BBHHHII", 0, 1, 0, 0, 0, 0, 0) + struct.pack(
        "<QQQ", 0, len(meta), taken
    )
    assert body[232:272] == struct.pack("<BBHHHII", 1, 0, 0, 0, 32, 0, 255) + struct.pack(
        "<QQQ", 0, 2 << 20, 0
    )
    assert body[272:280] == struct.pack("<II", 5, 128)
    assert meta == struct.pack("<I16II", 16, *range(16), 0) + bytes(4)


words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)


@given(
    st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=600),
    st.binary(max_size=100),
    st.lists(words, max_size=4),
    st.lists(st.integers(0, 200_000), max_size=4),
)
def test_whatever_is_written_is_read_again(
    tokens: list[int], extras: bytes, tags: list[str], lengths: list[int]
) -> None:
    meta = Meta(keys.uint32_tokens(tokens).tobytes(), extras, tuple(tags), ("a",) * len(lengths))
    rows = [ATTACHED._replace(length=length) for length in lengths]
    header = header_of(BASE_ROW, *rows, tokens=len(tokens), meta=meta)
    assert reencoded(header) == header
    if header.inline:
        assert verify_key(header) == meta
    else:
        assert verify_key(header, encode_meta(meta)) == meta


def test_a_record_of_the_index_is_the_header_without_its_inline_bytes() -> None:
    header = header_of()
    raw = encode(header, SLAB)
    record = raw[: len(raw) - len(header.inline)]
    assert parse_record(record, pages=PAGES, slab=SLAB) == header._replace(inline=b"")
    for wrong in (raw, record[:-1], record + b"\0", b""):
        with pytest.raises(FrameError):
            parse_record(wrong, pages=PAGES, slab=SLAB)


def test_a_record_cannot_be_written_again_without_its_inline_bytes() -> None:
    with pytest.raises(ArgumentError, match="inline"):
        encode(header_of()._replace(inline=b""))


def test_a_frame_outside_a_slab_has_no_extents() -> None:
    header = header_of()._replace(extents=())
    assert parse(encode(header)) == header
    with pytest.raises(FrameError, match="outside a slab"):
        parse(encode(header_of()))
    with pytest.raises(FrameError, match="not the pages"):
        parse(encode(header), pages=PAGES)


def test_a_header_of_another_slab_is_refused() -> None:
    with pytest.raises(FrameError, match="checksum"):
        parse(encode(header_of(), SLAB), pages=PAGES, slab=SLAB + 1)


def test_512_tokens_and_all_extents_fit_a_slot() -> None:
    header = header_of(BASE_ROW._replace(length=MAX_EXTENTS * 16_384), tokens=512)
    runs = tuple((2 * n, 1) for n in range(MAX_EXTENTS))
    assert header.inline
    assert reencoded(header._replace(extents=runs)).extents == runs


def test_meta_that_does_not_fit_begins_the_payload() -> None:
    header = header_of(tokens=1024)
    meta = header.segments[0]
    assert not meta.is_inline
    assert header.inline == b""
    assert header.segments[1].offset == meta.length == 4 * 1024 + 12
    assert reencoded(header) == header
    with pytest.raises(FrameError, match="in the payload"):
        verify_key(header)


def test_a_header_that_does_not_fit_its_slot_is_refused() -> None:
    with pytest.raises(ArgumentError, match="no header"):
        encode(header_of()._replace(extents=tuple((n, 1) for n in range(500))))


@pytest.mark.parametrize("field", ["key", "parent", "root", "tenant"])
@pytest.mark.parametrize("length", [0, 15, 33])
def test_a_name_of_the_wrong_length_is_never_padded(field: str, length: int) -> None:
    with pytest.raises(ArgumentError, match="bytes"):
        encode(header_of()._replace(**{field: bytes(length)}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        {"key": b"k" * 32},
        {"parent": ROOT[:16] + b"p" * 16},
        {"kind": KeyKind.CHUNK},
        {"kind": KeyKind.ENGINE},
        {"tokens": 8},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_key_that_does_not_follow_from_parent_and_tokens_is_refused(
    change: dict[str, object],
) -> None:
    with pytest.raises(FrameError):
        verify_key(header_of()._replace(**change))  # type: ignore[arg-type]


@given(st.integers(0, 15), st.integers(1, 255))
def test_a_token_that_was_changed_is_found(token: int, change: int) -> None:
    header = header_of()
    inline = bytearray(header.inline)
    inline[4 + 4 * token] ^= change
    with pytest.raises(FrameError, match="do not give"):
        verify_key(header._replace(inline=bytes(inline)))


def test_an_engines_key_may_come_without_tokens() -> None:
    meta = Meta(b"", b"h" * 32)
    key = keys.engine(ROOT, b"h" * 32)
    header = header_of()._replace(key=key, kind=KeyKind.ENGINE, inline=encode_meta(meta))
    rows = (SegmentEntry(META, INLINE, length=len(header.inline)), BASE_ROW)
    assert verify_key(header._replace(segments=rows)) == meta


def test_one_segment_is_verified_alone() -> None:
    data = {1: b"b" * 50_000, 2: b"a" * 300, 3: b"r" * 100_000}
    bare = header_of(COARSE, ATTACHED, REFINED)
    header = with_checksums(bare, [checksum(bare.frame_id, data[n]) for n in (1, 2, 3)])
    assert reencoded(header) == header
    for number, good in data.items():
        verify_segment(header, number, good)
        for bad in (good[:-1], good + b"b", b"x" + good[1:]):
            with pytest.raises(FrameError):
                verify_segment(header, number, bad)


def test_right_bytes_in_the_wrong_place_do_not_verify() -> None:
    fid = header_of().frame_id
    same = b"same bytes"
    places = {
        checksum(fid, same),
        checksum(fid[:32] + b"\2\1", same),
        checksum(fid[:32] + b"\1\3", same),
        checksum(keys.frame_id(ROOT, Part(1, 2)), same),
    }
    assert len(places) == 4


def test_payload_without_checksums_is_not_believed() -> None:
    with pytest.raises(FrameError, match="no checksum"):
        verify_segment(header_of(), 1, bytes(2 << 20))


def test_a_segment_is_found_in_its_pages() -> None:
    header = header_of(COARSE, ATTACHED, REFINED)._replace(extents=((40, 2), (7, 1), (100, 7)))
    assert locate(header, 1) == (((40, 2), (7, 1), (100, 1)), 0)
    assert locate(header, 2) == (((100, 1),), 50_000 - 3 * 16_384)
    assert locate(header, 3) == (((100, 7),), 50_300 - 3 * 16_384)


@pytest.mark.parametrize(
    ("keep", "fidelity", "pages"), [(2, 40, 4), (3, 40, 4), (4, 255, 10), (9, 255, 10)]
)
def test_a_frame_without_its_last_segments_is_a_valid_frame(
    keep: int, fidelity: int, pages: int
) -> None:
    header = header_of(COARSE, ATTACHED, REFINED, fidelity=255)
    shorter = without_trailing(header, keep)
    assert reencoded(shorter) == shorter
    assert shorter.fidelity == fidelity
    assert shorter.extents == ((5, pages),)
    verify_key(shorter)


@pytest.mark.parametrize("keep", [0, 1])
def test_a_frame_is_never_left_without_a_base(keep: int) -> None:
    with pytest.raises(ArgumentError, match="bases"):
        without_trailing(header_of(), keep)


def test_dropping_never_makes_a_frame_better() -> None:
    assert without_trailing(header_of(COARSE, REFINED, fidelity=10), 2).fidelity == 10


def test_a_refinement_counts_only_for_the_layers_that_it_covers() -> None:
    bases = (COARSE._replace(layer_end=16), COARSE._replace(layer_start=16))
    half = REFINED._replace(layer_end=16)
    for rows in ((*bases, half), (*bases, half, REFINED._replace(layer_start=17))):
        assert reencoded(header_of(*rows)).fidelity == 40
        with pytest.raises(FrameError, match="fidelity"):
            reencoded(header_of(*rows, fidelity=41))
    assert reencoded(header_of(*bases, REFINED, fidelity=255)).fidelity == 255


@pytest.mark.parametrize(
    "meta",
    [
        Meta(b"abc"),
        Meta(b"", tags=("",)),
        Meta(b"", tags=("a\0b",)),
        Meta(b"", tags=("\ud800",)),
        Meta(b"", names=("x" * 65_536,)),
        Meta(b"", tags=("x",) * 65_536),
    ],
)
def test_meta_that_could_not_be_read_again_is_not_written(meta: Meta) -> None:
    with pytest.raises(ArgumentError):
        encode_meta(meta)


@given(st.binary(max_size=200))
def test_random_meta_is_refused_or_says_what_its_bytes_say(data: bytes) -> None:
    try:
        meta = parse_meta(data)
    except FrameError:
        return
    assert encode_meta(meta) == data
