"""What is moved between a slab's files and memory at once, and what each thread takes on."""

import threading

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kvstrata.kvstore.backlog import Backlog
from kvstrata.kvstore.files import Bytes
from kvstrata.kvstore.lock import Turns
from kvstrata.kvstore.slab import PAGE_BYTES, Extent
from kvstrata.kvstore.transfers import NEAR, Payload, adjoining, near, placed, runs

_MIB = 1 << 20


def _payload(page: int, nbytes: int) -> Payload:
    return Payload([(page, -(-nbytes // PAGE_BYTES))], [np.zeros(nbytes, np.uint8)])


def _together(*payloads: Payload) -> list[list[int]]:
    return [numbers for numbers, _ in adjoining(payloads)]


def test_payloads_of_neighbouring_pages_go_together() -> None:
    two = 2 * PAGE_BYTES
    assert _together(_payload(0, two), _payload(2, two), _payload(5, two)) == [[0, 1], [2]]


def test_payloads_go_in_the_order_of_their_pages() -> None:
    assert _together(_payload(7, PAGE_BYTES), _payload(6, PAGE_BYTES)) == [[1, 0]]


def test_a_payload_that_does_not_fill_its_pages_is_the_last_of_those_that_go_together() -> None:
    assert _together(_payload(0, 4096), _payload(1, PAGE_BYTES)) == [[0], [1]]


def test_no_more_than_some_megabytes_go_together() -> None:
    pages = 3 * _MIB // PAGE_BYTES
    payloads = [_payload(n * pages, 3 * _MIB) for n in range(4)]
    assert _together(*payloads) == [[0, 1], [2, 3]]
    assert _together(_payload(0, 32 * _MIB)) == [[0]]


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 2)), min_size=1, max_size=12))
def test_every_byte_goes_where_its_page_is(shapes: list[tuple[int, int]]) -> None:
    payloads, page = [], 0
    for number, (count, gap) in enumerate(shapes):
        extents: list[Extent] = [(page + n, 1) for n in range(count)]
        payloads.append(Payload(extents, [np.full(count * PAGE_BYTES, number + 1, np.uint8)]))
        page += count + gap
    file: Bytes = np.zeros(page * PAGE_BYTES, np.uint8)
    for _, payload in adjoining(payloads):
        for offset, data in placed(payload):
            whole = np.concatenate(data)
            file[offset : offset + whole.nbytes] = whole
    for number, payload in enumerate(payloads):
        for first, count in payload.extents:
            assert (file[first * PAGE_BYTES : (first + count) * PAGE_BYTES] == number + 1).all()


def test_runs_have_no_gaps_and_an_end() -> None:
    assert list(runs([1, 2, 3, 7, 8], 2)) == [range(1, 3), range(3, 4), range(7, 9)]
    assert list(runs([], 2)) == []


def test_near_slots_are_read_together_though_some_between_them_are_not_wanted() -> None:
    assert list(near([3, 5, 3 + NEAR - 1, 3 + NEAR])) == [[3, 5, 3 + NEAR - 1], [3 + NEAR]]


def _backlog(*sizes: int, count: int = 8, nbytes: int = 100, takers: int = 1) -> Backlog[int]:
    backlog: Backlog[int] = Backlog(lambda size: size, count=count, nbytes=nbytes, takers=takers)
    for size in sizes:
        backlog.put(size)
    return backlog


def test_a_batch_is_bounded_by_count_and_by_bytes() -> None:
    assert _backlog(*[1] * 10).take() == [1] * 8
    assert _backlog(*[40] * 10).take() == [40, 40]
    assert _backlog(200, 200).take() == [200]


def test_a_batch_leaves_the_others_their_share() -> None:
    backlog = _backlog(*[1] * 6, takers=4)
    assert [len(backlog.take()) for _ in range(4)] == [2, 1, 1, 1]


def test_the_end_comes_to_every_taker_behind_what_was_there() -> None:
    backlog = _backlog(1, 2, 3, takers=2)
    backlog.end()
    taken = [backlog.take()]
    while taken[-1]:
        taken.append(backlog.take())
    assert [size for batch in taken for size in batch] == [1, 2, 3]
    assert backlog.take() == []


def test_no_more_threads_than_there_are_turns_are_inside() -> None:
    turns, inside = Turns(threading.Semaphore(1)), threading.Event()

    def enter() -> None:
        with turns:
            inside.set()

    with turns:
        other = threading.Thread(target=enter)
        other.start()
        while not turns.is_crowded:
            other.join(0.001)
        assert not inside.is_set()
    other.join()
    assert inside.is_set()
    assert not turns.is_crowded
