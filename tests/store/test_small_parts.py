"""The small parts alone: breaker, ghosts, superblock, restorable lengths, files, catalog."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstrata.kvstore.breaker import Breaker
from kvstrata.kvstore.catalog import Catalog
from kvstrata.kvstore.errors import FrameError, TierError
from kvstrata.kvstore.files import ALIGNMENT, DirectFile, aligned
from kvstrata.kvstore.ghosts import Ghost, Ghosts, Reason
from kvstrata.kvstore.layout import Group, Layout, Part
from kvstrata.kvstore.plan import needed, restorable
from kvstrata.kvstore.superblock import Superblock
from tests.store.kit import Clock

# --- the breaker ---------------------------------------------------------------------------------


def test_a_failure_opens_the_breaker_at_once_and_a_probe_closes_it(clock: Clock) -> None:
    breaker = Breaker("disk", clock)
    assert (breaker.is_open, breaker.wants_probe) == (False, False)
    breaker.failure("EIO")
    assert (breaker.is_open, breaker.reason, breaker.trips) == (True, "EIO", 1)
    breaker.success()
    assert breaker.is_open  # only a probe closes it
    clock.advance(1.0)
    assert breaker.wants_probe
    breaker.probed(True)
    assert (breaker.is_open, breaker.reason) == (False, "")


def test_the_pause_between_probes_doubles_to_its_limit(clock: Clock) -> None:
    breaker = Breaker("disk", clock)
    breaker.failure("EIO")
    pauses = []
    for _ in range(9):
        start = clock()
        while not breaker.wants_probe:
            clock.advance(0.5)
        pauses.append(clock() - start)
        breaker.probed(False)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    breaker.probed(True)
    breaker.failure("again")
    clock.advance(1.0)
    assert breaker.wants_probe


def test_only_lateness_in_a_row_opens_the_breaker(clock: Clock) -> None:
    breaker = Breaker("disk", clock, patience=3)
    for _ in range(5):
        breaker.late()
        breaker.late()
        breaker.success()
    assert not breaker.is_open
    for _ in range(3):
        breaker.late()
    assert "deadline" in breaker.reason


# --- ghosts --------------------------------------------------------------------------------------


def _ghost(when: float) -> Ghost:
    return Ghost(Reason.EVICTED, when, 0, 0)


def test_ghosts_are_bounded_and_know_how_far_back_they_reach() -> None:
    ghosts = Ghosts(4, since=10.0)
    for number in range(5):
        ghosts.add([bytes([number])], _ghost(100.0 + number))
    assert len(ghosts) == 3  # at least half of the limit
    assert ghosts.find(b"\0") is None
    assert ghosts.find(b"\4") == _ghost(104.0)
    assert ghosts.horizon == 101.0


@given(st.lists(st.tuples(st.integers(0, 8), st.booleans()), max_size=60))
def test_what_is_not_remembered_left_before_the_horizon(events: list[tuple[int, bool]]) -> None:
    """Nothing that left at or after the horizon is ever denied."""
    ghosts = Ghosts(4, since=0.0)
    last: dict[bytes, float] = {}
    for when, (number, _) in enumerate(events, start=1):
        ghosts.add([bytes([number])], _ghost(float(when)))
        last[bytes([number])] = float(when)
        assert len(ghosts) <= 4
        for fid, left in last.items():
            assert ghosts.find(fid) == _ghost(left) or left <= ghosts.horizon


def test_no_ghosts_remember_nothing() -> None:
    ghosts = Ghosts(0, since=0.0)
    ghosts.add([b"x"], _ghost(5.0))
    assert (len(ghosts), ghosts.find(b"x"), ghosts.horizon) == (0, None, 5.0)


# --- the superblock ------------------------------------------------------------------------------


def test_a_superblock_is_read_as_it_was_written() -> None:
    block = Superblock.new(100, 1000, store=b"s" * 16)
    data = block.encode()
    assert len(data) == 4096
    assert Superblock.parse(data) == block
    assert data[:8] == b"KVSLAB\0\0"
    assert int.from_bytes(data[12:16], "little") == 16384
    assert int.from_bytes(data[16:20], "little") == 4096
    assert int.from_bytes(data[20:28], "little") == 100
    assert int.from_bytes(data[28:36], "little") == 1000
    assert data[36:52] == block.slab
    assert data[52:68] == b"s" * 16
    assert block.seed == int.from_bytes(block.slab[:8], "little")


@given(st.integers(0, 83), st.integers(1, 255))
def test_no_byte_of_a_superblock_can_change_unseen(at: int, mask: int) -> None:
    data = bytearray(Superblock.new(100, 1000).encode())
    data[at] ^= mask
    with pytest.raises(FrameError):
        Superblock.parse(bytes(data))


@given(st.binary(max_size=200))
def test_what_is_no_superblock_is_refused(data: bytes) -> None:
    with pytest.raises(FrameError):
        Superblock.parse(data)


# --- restorable lengths --------------------------------------------------------------------------


def _layout(windows: Sequence[int]) -> Layout:
    groups = tuple(
        Group((n,), 1, 8, "float16", kind="window" if window else "full", window=window)
        for n, window in enumerate(windows)
    )
    return Layout(groups, block_tokens=16)


def _by_hand(layout: Layout, ready: np.ndarray[tuple[int, int], np.dtype[np.bool_]]) -> list[int]:
    """A length is restorable if the next token can attend to every token that it must see."""
    found = []
    for blocks in range(1, ready.shape[1] + 1):
        position = blocks * layout.block_tokens
        is_whole = True
        for number, group in enumerate(layout.groups):
            first = max(0, position + 1 - group.window) if group.window else 0
            seen = {token // layout.block_tokens for token in range(first, position)}
            seen.add(blocks - 1)  # a window of one token sees none; the last block is kept anyway
            is_whole &= all(ready[number, block] for block in seen)
        if is_whole:
            found.append(blocks)
    return found


@given(
    st.lists(st.sampled_from([0, 0, 1, 2, 15, 16, 17, 18, 33, 100]), min_size=1, max_size=3),
    st.integers(0, 12),
    st.data(),
)
def test_restorable_lengths_are_those_whose_every_token_is_there(
    windows: list[int], blocks: int, data: st.DataObject
) -> None:
    layout = _layout(windows)
    bits = data.draw(st.lists(st.booleans(), min_size=blocks * len(windows), max_size=None))
    ready = np.array(bits[: blocks * len(windows)], np.bool_).reshape(len(windows), blocks)
    parts = [Part(group, 0) for group in range(len(windows))]
    assert restorable(layout, parts, ready) == _by_hand(layout, ready)


@given(st.sampled_from([0, 1, 16, 17, 18, 100]), st.integers(0, 20))
def test_what_a_length_needs_makes_it_restorable(window: int, blocks: int) -> None:
    layout, part = _layout([window]), Part(0, 0)
    ready = np.zeros((1, 20), np.bool_)
    ready[0, list(needed(layout, part, blocks))] = True
    assert (blocks in restorable(layout, [part], ready)) == (blocks > 0)
    for block in needed(layout, part, blocks):
        ready[0, block] = False
        assert blocks not in restorable(layout, [part], ready)
        ready[0, block] = True


# --- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("direct", [True, False])
def test_a_file_gives_back_what_was_written_in_pieces(tmp_path: Path, direct: bool) -> None:
    file = DirectFile(tmp_path / "file", direct=direct)
    file.resize(16 * ALIGNMENT)
    whole = aligned(6 * ALIGNMENT)
    whole[:] = np.random.default_rng(1).integers(0, 256, whole.size, np.uint8)
    file.write(2 * ALIGNMENT, [whole[: 2 * ALIGNMENT], whole[2 * ALIGNMENT :]])
    file.sync()
    back = aligned(6 * ALIGNMENT)
    file.read(2 * ALIGNMENT, [back[:ALIGNMENT], back[ALIGNMENT:]])
    assert np.array_equal(whole, back)
    assert file.nbytes == 16 * ALIGNMENT
    file.close()


def test_a_file_that_ends_is_an_error_of_the_medium(tmp_path: Path) -> None:
    file = DirectFile(tmp_path / "file")
    file.resize(ALIGNMENT)
    with pytest.raises(TierError, match="ends"):
        file.read(0, [aligned(2 * ALIGNMENT)])
    with pytest.raises(TierError, match="ends"):
        file.read(8 * ALIGNMENT, [aligned(ALIGNMENT)])
    file.close()


def test_a_file_that_cannot_be_opened_is_an_error_of_the_medium(tmp_path: Path) -> None:
    with pytest.raises(TierError, match="cannot open"):
        DirectFile(tmp_path / "nowhere" / "file")


def test_a_closed_file_is_an_error_of_the_medium_and_never_another_file(tmp_path: Path) -> None:
    """The descriptor's number may belong to somebody else by then."""
    file = DirectFile(tmp_path / "file")
    file.resize(ALIGNMENT)
    file.close()
    other = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)
    os.ftruncate(other, ALIGNMENT)
    attempts: list[Callable[[], None]] = [
        lambda: file.write(0, [aligned(ALIGNMENT)]),
        lambda: file.read(0, [aligned(ALIGNMENT)]),
        file.sync,
        lambda: file.resize(0),
    ]
    for attempt in attempts:
        with pytest.raises(TierError):
            attempt()
    assert os.fstat(other).st_size == ALIGNMENT
    os.close(other)


def test_a_full_disk_is_an_error_of_the_medium(tmp_path: Path) -> None:
    file = DirectFile(tmp_path / "file")
    with pytest.raises(TierError, match="cannot give"):
        file.resize(1 << 60)
    file.close()


# --- the catalog ---------------------------------------------------------------------------------


def test_a_catalog_gives_back_what_was_committed(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path / "index", map_bytes=1 << 20)
    for number in range(300):
        catalog.put(number.to_bytes(34, "big"), b"record %d" % number)
    catalog.delete((7).to_bytes(34, "big"))
    catalog.put((8).to_bytes(34, "big"), b"newer")
    assert catalog.has_queued
    catalog.commit()
    assert not catalog.has_queued
    catalog.sync()
    catalog.put(b"lost" * 8 + b"xx", b"never committed")
    catalog.close()
    batches = Catalog(tmp_path / "index", map_bytes=1 << 20).scan()
    found = {fid: value for batch in batches for fid, value in zip(*batch, strict=True)}
    assert len(found) == 299
    assert found[(8).to_bytes(34, "big")] == b"newer"


def test_a_full_catalog_keeps_its_queue_and_says_so(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path / "index", map_bytes=128 << 10)
    for number in range(3000):
        catalog.put(number.to_bytes(34, "big"), bytes(300))
    with pytest.raises(TierError, match="index"):
        catalog.commit()
    assert catalog.has_queued
    for number in range(2990):
        catalog.delete(number.to_bytes(34, "big"))
    catalog.commit()
    assert sum(len(fids) for fids, _ in catalog.scan()) == 10
    catalog.close()


def test_facts_are_there_at_once(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path / "index", map_bytes=1 << 20)
    catalog.state({b"store": b"1", b"stripe:0": b"2"})
    catalog.close()
    again = Catalog(tmp_path / "index", map_bytes=1 << 20)
    assert again.facts() == {b"store": b"1", b"stripe:0": b"2"}
    assert again.facts(b"stripe:") == {b"stripe:0": b"2"}
    again.close()
