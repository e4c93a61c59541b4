"""Tombstones: what was dropped is known after anything that a crash or a bad medium can do."""

import resource
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from kvstrata.kvstore.drops import Log
from kvstrata.kvstore.errors import ArgumentError, TierError
from kvstrata.kvstore.tombstones import (
    FILE_HEAD_BYTES,
    Kind,
    State,
    Tombstone,
    encode_head,
    encode_records,
    parse,
    tag_subject,
)

SLAB = bytes(range(16))
NAME = "tombstones.kvs"
RECORDS = (
    Tombstone(Kind.KEY, b"k" * 32, 7, 1.7e9),
    Tombstone(Kind.TAG, tag_subject(b"t" * 16, "user:7"), 9, 1.8e9),
    Tombstone(Kind.TENANT, b"t" * 16, 2**64 - 1, 0.0),
    Tombstone(Kind.ROOT, b"r" * 16, 0, 1.9e9),
)
HEAD, SEED = encode_head(SLAB)
LOG = HEAD + encode_records(RECORDS, SEED)[0]
ENDS = [FILE_HEAD_BYTES + sum(40 + len(r.subject) for r in RECORDS[:n]) for n in range(5)]


def test_a_log_is_written_as_the_format_says() -> None:
    head = struct.pack("<8sH6s16s", b"KVSTOMB\0", 1, bytes(6), SLAB)
    seed = xxh3_64_intdigest(head)
    assert LOG[:40] == head + struct.pack("<Q", seed)
    start = struct.pack("<4sB3sI", b"TOMB", 1, bytes(3), 32)
    rest = struct.pack("<Qd", 7, 1.7e9)
    sum_of_head = xxh3_64_intdigest(start + rest) & 0xFFFFFFFF
    record = start + struct.pack("<I", sum_of_head) + rest + b"k" * 32
    assert LOG[40:112] == record + struct.pack("<Q", xxh3_64_intdigest(record, seed))


def test_what_is_written_is_read_again() -> None:
    found = parse(LOG, SLAB)
    assert (found.state, found.records, found.end) == (State.WHOLE, RECORDS, len(LOG))
    more, _ = encode_records(RECORDS[:1], found.seed)
    assert parse(LOG + more, SLAB).records == (*RECORDS, RECORDS[0])


def test_an_empty_log_is_whole() -> None:
    assert parse(HEAD, SLAB) == (State.WHOLE, (), 40, SEED)


@given(st.integers(0, len(LOG)))
def test_a_log_cut_anywhere_keeps_all_records_before_the_cut(length: int) -> None:
    found = parse(LOG[:length], SLAB)
    if length < FILE_HEAD_BYTES:
        assert found.state is State.DAMAGED
        return
    whole = max(n for n, end in enumerate(ENDS) if end <= length)
    assert found.state is (State.WHOLE if length == ENDS[whole] else State.TORN)
    assert found.records == RECORDS[:whole]
    assert found.end == ENDS[whole]


@given(st.data())
def test_a_flipped_bit_never_makes_a_drop_be_forgotten(data: st.DataObject) -> None:
    bit = data.draw(st.integers(0, 8 * len(LOG) - 1))
    raw = bytearray(LOG)
    raw[bit // 8] ^= 1 << bit % 8
    assert parse(bytes(raw), SLAB).state is State.DAMAGED


@pytest.mark.parametrize("gone", range(3))
def test_a_record_taken_out_of_the_middle_is_noticed(gone: int) -> None:
    data = LOG[: ENDS[gone]] + LOG[ENDS[gone + 1] :]
    assert parse(data, SLAB).state is State.DAMAGED


def test_records_that_changed_places_are_noticed() -> None:
    first, second = LOG[ENDS[2] : ENDS[3]], LOG[ENDS[3] : ENDS[4]]
    assert parse(LOG[: ENDS[2]] + second + first, SLAB).state is State.DAMAGED


@pytest.mark.parametrize(
    "data",
    [
        b"", bytes(40), encode_head(bytes(16))[0], LOG + b"x", LOG + bytes(100), LOG + LOG[40:112],
    ],
    ids=["missing", "zeros", "another slab's", "other bytes", "zeros behind", "repeated"],
)  # fmt: skip
def test_a_log_that_is_not_whole_is_not_believed(data: bytes) -> None:
    assert parse(data, SLAB).state is State.DAMAGED


@given(st.binary(max_size=200))
def test_random_bytes_behind_the_records_never_add_one(data: bytes) -> None:
    assert parse(LOG + data, SLAB).records == RECORDS


@pytest.mark.parametrize(
    ("kind", "subject"),
    [
        (Kind.KEY, bytes(31)),
        (Kind.TAG, bytes(16)),
        (Kind.TAG, bytes(65_537)),
        (Kind.TENANT, b""),
        (Kind.ROOT, bytes(32)),
    ],
)
def test_a_subject_that_names_nothing_is_refused(kind: Kind, subject: bytes) -> None:
    with pytest.raises(ArgumentError, match="subject"):
        encode_records([Tombstone(kind, subject, 1, 1.0)], SEED)


def log_in(directory: Path, *, is_new: bool = False) -> Log:
    """The log beside a slab."""
    return Log(directory / NAME, SLAB, is_new=is_new)


def test_a_drop_is_there_after_a_restart(tmp_path: Path) -> None:
    log = log_in(tmp_path, is_new=True)
    log.append(RECORDS[:1])
    log.append(RECORDS)
    assert (tmp_path / NAME).read_bytes() == LOG
    again = log_in(tmp_path)
    assert (again.is_damaged, again.records) == (False, set(RECORDS))


def test_the_log_is_its_owners_alone(tmp_path: Path) -> None:
    log_in(tmp_path, is_new=True)
    assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o600


def test_a_restarted_log_goes_on_where_it_ended(tmp_path: Path) -> None:
    for record in RECORDS:
        log_in(tmp_path, is_new=record is RECORDS[0]).append([record])
    assert (tmp_path / NAME).read_bytes() == LOG


@pytest.mark.parametrize("length", [ENDS[3] + 1, ENDS[3] + 33, len(LOG) - 1])
def test_a_torn_end_is_cut_off_before_anything_is_appended(tmp_path: Path, length: int) -> None:
    (tmp_path / NAME).write_bytes(LOG[:length])
    log = log_in(tmp_path)
    assert (log.is_damaged, log.records) == (False, set(RECORDS[:3]))
    log.append(RECORDS[3:])
    assert (tmp_path / NAME).read_bytes() == LOG


@pytest.mark.parametrize("is_missing", [True, False])
def test_a_damaged_or_missing_log_says_so(tmp_path: Path, is_missing: bool) -> None:
    if not is_missing:
        (tmp_path / NAME).write_bytes(LOG[:100] + b"x" + LOG[101:])
    log = log_in(tmp_path)
    assert log.is_damaged
    log.restart(RECORDS)
    assert (tmp_path / NAME).read_bytes() == LOG
    assert not log_in(tmp_path).is_damaged


def test_records_whose_work_is_done_are_left_out(tmp_path: Path) -> None:
    log = log_in(tmp_path, is_new=True)
    log.append(RECORDS)
    log.restart(RECORDS[2:])
    log.append(RECORDS[:1])
    assert log_in(tmp_path).records == {*RECORDS[2:], RECORDS[0]}
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


@contextmanager
def files_at_most(nbytes: int) -> Iterator[None]:
    """A medium on which no file grows beyond ``nbytes``."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_medium_is_told_and_loses_nothing_that_was_promised(tmp_path: Path) -> None:
    log = log_in(tmp_path, is_new=True)
    log.append(RECORDS[:2])
    with files_at_most(ENDS[2] + 20):
        for _ in range(2):
            with pytest.raises(TierError):
                log.append(RECORDS[2:])
        assert log.records == set(RECORDS[:2])
        assert parse((tmp_path / NAME).read_bytes(), SLAB).records == RECORDS[:2]
    log.append(RECORDS[2:])
    assert (tmp_path / NAME).read_bytes() == LOG


def test_a_directory_that_is_gone_is_told(tmp_path: Path) -> None:
    with pytest.raises(TierError, match="cannot write"):
        log_in(tmp_path / "gone", is_new=True)
    (tmp_path / NAME).mkdir()
    with pytest.raises(TierError, match="cannot read"):
        log_in(tmp_path)
