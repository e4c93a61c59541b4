"""Frames that somebody or something made worse: refused, for the right reason, and nothing else."""

import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from kvstrata.kvstore.errors import FrameError
from kvstrata.kvstore.frame import Header, encode, parse, parse_record, verify_key
from kvstrata.kvstore.headers import HEADER_DTYPE, parse_records, plausible
from kvstrata.kvstore.slab import pages_for
from tests.hostile.make import GOOD, HERE, HOSTILE, PAGES, SLAB, slots

GOOD_FRAME = slots()["good-frame.frame"]
HEADER_BYTES = 192 + 4 * 40 + 2 * 8


def read(data: bytes) -> Header:
    """What recovery does with a header slot."""
    header = parse(data, pages=PAGES, slab=SLAB)
    verify_key(header)
    return header


def test_the_folder_is_what_the_script_makes() -> None:
    assert {path.name: path.read_bytes() for path in HERE.glob("*.frame")} == slots()


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_a_hostile_frame_is_refused_for_its_lie(name: str) -> None:
    with pytest.raises(FrameError, match=HOSTILE[name][1]):
        read((HERE / f"{name}.frame").read_bytes())


@pytest.mark.parametrize("name", sorted(GOOD))
def test_a_good_frame_is_read(name: str) -> None:
    header = read((HERE / f"{name}.frame").read_bytes())
    assert (header.group, header.shard, header.generation) == (0, 1, 9)
    assert header.extents == ((40, 1), (7, 3))


def test_a_segment_of_unknown_optional_kind_is_named_as_such() -> None:
    header = read((HERE / "good-unknown-optional-segment.frame").read_bytes())
    assert [row.is_known for row in header.segments] == [True, True, False, True]


@given(st.data())
def test_a_flipped_bit_is_found_wherever_it_is(data: st.DataObject) -> None:
    bit = data.draw(st.integers(0, 8 * len(GOOD_FRAME) - 1))
    raw = bytearray(GOOD_FRAME)
    raw[bit // 8] ^= 1 << bit % 8
    with pytest.raises(FrameError):
        read(bytes(raw))


def forged(changes: dict[int, int]) -> bytes:
    """The good frame with other bytes at some offsets, its header's checksum recomputed."""
    raw = bytearray(GOOD_FRAME)
    for offset, byte in changes.items():
        raw[offset] = byte
    struct.pack_into("<Q", raw, 8, xxh3_64_intdigest(raw[16:HEADER_BYTES], SLAB))
    return bytes(raw)


some_bytes = st.one_of(st.integers(0, 255), st.sampled_from([0, 1, 127, 128, 255]))


@settings(max_examples=500)
@given(st.dictionaries(st.integers(16, HEADER_BYTES - 1), some_bytes, min_size=1, max_size=6))
def test_a_forged_header_is_refused_or_says_exactly_what_its_bytes_say(
    changes: dict[int, int],
) -> None:
    data = forged(changes)
    record = data[:HEADER_BYTES]
    try:
        header = parse_record(record, pages=PAGES, slab=SLAB)
    except FrameError:
        with pytest.raises(FrameError):
            parse(data, pages=PAGES, slab=SLAB)
        return
    pages = [page for first, count in header.extents for page in range(first, first + count)]
    assert len(set(pages)) == len(pages) == pages_for(header.payload_bytes)
    assert max(pages) < PAGES
    assert bool(plausible(np.frombuffer(record[:192], HEADER_DTYPE))[0])
    assert parse_records([record], pages=PAGES, slab=SLAB).is_sound.tolist() == [True]
    inline = data[HEADER_BYTES:]
    if len(inline) == sum(row.length for row in header.segments if row.is_inline):
        assert encode(header._replace(inline=inline), SLAB) == data


@given(st.integers(0, len(GOOD_FRAME) - 1))
def test_a_frame_cut_short_is_found_wherever_it_is_cut(length: int) -> None:
    with pytest.raises(FrameError):
        read(GOOD_FRAME[:length])


@given(st.binary(max_size=600))
def test_random_bytes_are_no_frame(data: bytes) -> None:
    for parser in (parse, parse_record):
        with pytest.raises(FrameError):
            parser(data, pages=PAGES, slab=SLAB)


def test_huge_numbers_allocate_nothing() -> None:
    huge = [data for name, data in slots().items() if "huge" in name or "more-than" in name]
    assert huge
    tracemalloc.start()
    for data in huge:
        with pytest.raises(FrameError):
            read(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000
