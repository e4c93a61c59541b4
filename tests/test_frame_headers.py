"""Many headers at once: numpy's view says what the parser says."""

import struct

import numpy as np
import pytest

from kvstrata.kvstore.errors import FrameError
from kvstrata.kvstore.frame import encode, parse, parse_record
from kvstrata.kvstore.headers import (
    EXTENT_DTYPE,
    HEADER_DTYPE,
    SEGMENT_DTYPE,
    has_sound_checksum,
    parse_records,
    plausible,
)
from tests.hostile.make import PAGES, SLAB, slots

FRAME = slots()["good-frame.frame"]
HEADER = parse(FRAME, pages=PAGES, slab=SLAB)
RECORD = FRAME[: len(FRAME) - len(HEADER.inline)]


def test_numpys_view_has_the_formats_sizes() -> None:
    assert (HEADER_DTYPE.itemsize, SEGMENT_DTYPE.itemsize, EXTENT_DTYPE.itemsize) == (192, 40, 8)


def test_every_field_is_where_the_parser_finds_it() -> None:
    row = np.frombuffer(FRAME[:192], HEADER_DTYPE)[0]
    for name in ("key", "parent", "root", "tenant"):
        assert row[name].tobytes() == getattr(HEADER, name)
    for name in ("group", "shard", "shards", "fidelity", "kind", "tokens"):
        assert row[name] == getattr(HEADER, name)
    for name in ("position", "generation", "expiry", "saved"):
        assert row[name] == getattr(HEADER, name)
    assert row["payload"] == HEADER.payload_bytes
    assert row["inline"] == len(HEADER.inline)
    rows = np.frombuffer(FRAME[192 : 192 + 160], SEGMENT_DTYPE)
    for found, expected in zip(rows, HEADER.segments, strict=True):
        for name in SEGMENT_DTYPE.names or ():
            if name != "zero":
                assert found[name] == getattr(expected, name)


@pytest.mark.parametrize("name", sorted(slots()))
def test_what_is_not_plausible_or_sound_is_no_header(name: str) -> None:
    """Never the other way round: a hostile header may be plausible until it is parsed."""
    data = slots()[name]
    if len(data) < 192:
        assert not has_sound_checksum(data, SLAB)
        return
    seen = plausible(np.frombuffer(data[:192], HEADER_DTYPE))[0] and has_sound_checksum(data, SLAB)
    try:
        parse(data, pages=PAGES, slab=SLAB)
    except FrameError:
        return
    assert seen


def test_a_slot_that_was_never_written_is_not_plausible() -> None:
    assert not plausible(np.zeros(5, HEADER_DTYPE)).any()


def test_a_changed_byte_or_another_slab_is_not_sound() -> None:
    assert has_sound_checksum(FRAME, SLAB)
    assert not has_sound_checksum(FRAME, SLAB + 1)
    for offset in (16, 100, 367):
        raw = bytearray(FRAME)
        raw[offset] ^= 1
        assert not has_sound_checksum(bytes(raw), SLAB)


def test_records_are_read_side_by_side() -> None:
    other = HEADER._replace(generation=11, extents=((0, 4),))
    bare = encode(other, SLAB)[: 192 + 160 + 8]
    wrong = [
        RECORD[:-1], RECORD + b"\0", b"", bytes(192), RECORD[:192],
        encode(other, SLAB + 1)[: len(bare)],
        encode(other._replace(extents=((61, 4),)), SLAB)[: len(bare)],
        encode(other._replace(extents=((61, 3),)), SLAB)[: len(bare)],
        encode(other._replace(extents=((0, 0xFFFFFFFF),)), SLAB)[: len(bare)],
    ]  # fmt: skip
    records = [RECORD, *wrong, bare]
    columns = parse_records(records, pages=PAGES, slab=SLAB)
    assert columns.is_sound.tolist() == [True, *(False for _ in wrong), True]
    assert columns.headers["generation"][[0, -1]].tolist() == [9, 11]
    runs = [
        columns.extents[a:b].tolist() for a, b in zip(columns.ends, columns.ends[1:], strict=False)
    ]
    assert (runs[0], runs[-1]) == ([(40, 1), (7, 3)], [(0, 4)])
    for record in wrong:
        with pytest.raises(FrameError):
            parse_record(record, pages=PAGES, slab=SLAB)


def test_no_records_are_no_columns() -> None:
    columns = parse_records([], pages=PAGES, slab=SLAB)
    assert len(columns.is_sound) == len(columns.headers) == len(columns.extents) == 0


def test_times_that_are_no_times_are_not_plausible() -> None:
    for number in (float("nan"), float("inf"), -1.0):
        for offset in (152, 160):
            raw = bytearray(FRAME[:192])
            struct.pack_into("<d", raw, offset, number)
            assert not plausible(np.frombuffer(bytes(raw), HEADER_DTYPE))[0]
