"""A large index: its memory, its start after a kill, and whether its churn ever makes one wait.

The blocks are made up (``bench_hollow.py``), all else is the real store.  Everything happens in
processes of their own, each killed in the middle of its work.

A pause is the CPU time that a thread spends between a call and its return.  Beside it stands what
the whole process spends meanwhile: also what other threads do while the call waits for them to let
go of the lock or the interpreter.  Where threads work side by side that says too much.
"""

import gc
import os
import signal
import time
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple, TypeVar

import lmdb

from ..kvstore.index import DISK
from ..kvstore.space import Space
from ..kvstore.store import Store
from .bench_figures import Figure, Spread, seconds, spread
from .bench_ground import NoPages, Scale, identity_of, prompt_of
from .bench_hollow import LAYOUT, HollowFile, hollow_settings, write_catalog

_STARTS = 4
_BATCH = 16
_AHEAD = 512  # blocks that wait for the disk at most
_NAP_S = 0.0005
_IDLE_S = 0.2
_HOUSE_EVERY = 256  # batches

Result = TypeVar("Result")


class _Start(NamedTuple):
    """What one process measured; seconds are its main thread's CPU time."""

    open_s: float
    scan_s: float
    index_bytes: int  # of anonymous memory


class _Pause(NamedTuple):
    """CPU time of one call in ms: of its thread, and of the process meanwhile."""

    thread: float
    process: float


_NO_PAUSE = _Pause(0.0, 0.0)


class _Churn(NamedTuple):
    """The longest pauses in ms, by verb, and of the whole process; blocks that left the disk."""

    save: float
    load: float
    house: float
    process: float
    evicted: int


def index(scale: Scale, directory: Path) -> list[Figure]:
    """Bytes and start of an index of ``entries`` blocks; pauses while it churns."""
    home = directory / "index"
    write_catalog(home, scale.entries)
    starts = [_killed(_scan_first if n % 2 else _open_first, home, scale) for n in range(_STARTS)]
    churn = _killed(_churn, home, scale)
    entries = f"{scale.entries:,} entries"
    each = spread([start.index_bytes / scale.entries for start in starts[::2]])
    over = spread([start.open_s / start.scan_s for start in starts])
    took = f"{entries}; the scan takes {spread([s.scan_s for s in starts]).median:.2f} s"
    verbs = f"save {churn.save:.1f}, load {churn.load:.1f}, expire and stats {churn.house:.1f}"
    others = f"with all other threads {churn.process:.1f}"
    worst = max(churn.save, churn.load, churn.house)
    return [
        Figure("index, memory each", each, 300, "bytes", at_most=True, note=entries),
        Figure("start after a kill / LMDB scan", over, 3.0, at_most=True, note=took),
        Figure(
            "longest pause under churn",
            Spread(worst, min(churn[:3]), worst),
            10.0,
            "ms",
            at_most=True,
            note=f"{entries}, {churn.evicted:,} left the disk; {verbs}; {others}",
        ),
    ]


def _killed(work: Callable[[Path, Scale], Result], home: Path, scale: Scale) -> Result:
    """What ``work`` finds in a new process, which is killed when it has said so."""
    context = get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_tell, args=(there, work, home, scale))
    process.start()
    there.close()
    result: Result = here.recv()
    process.join()
    return result


def _tell(
    parent: Connection, work: Callable[[Path, Scale], object], home: Path, scale: Scale
) -> None:
    parent.send(work(home, scale))
    os.kill(os.getpid(), signal.SIGKILL)


def _open_first(home: Path, scale: Scale) -> _Start:
    before = _anonymous_bytes()
    opened: list[Store] = []
    open_s = seconds(lambda: opened.append(_open(home, scale)), time.thread_time)
    gc.collect()
    index_bytes = _anonymous_bytes() - before
    opened.pop().close()
    return _Start(open_s, _scan(home), index_bytes)


def _scan_first(home: Path, scale: Scale) -> _Start:
    scan_s = _scan(home)
    gc.collect()
    return _Start(seconds(lambda: _open(home, scale), time.thread_time), scan_s, 0)


def _open(home: Path, scale: Scale) -> Store:
    store = Store(hollow_settings(home, scale.entries), open_file=HollowFile)
    if store.recovered < scale.entries:
        raise AssertionError(f"{store.recovered} blocks were found of {scale.entries}")
    return store


def _scan(home: Path) -> float:
    """Seconds of the same LMDB read into a plain dict."""
    with lmdb.open(str(home / "index"), max_dbs=2, readonly=True, lock=False) as env:
        frames = env.open_db(b"frames", create=False)
        with env.begin(db=frames) as txn:
            return seconds(lambda: dict(txn.cursor()), time.thread_time)


def _anonymous_bytes() -> int:
    """Memory of this process that no file and no shared memory backs."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    raise AssertionError("this kernel does not say how much anonymous memory a process has")


def _churn(home: Path, scale: Scale) -> _Churn:
    """Save new blocks, load earlier ones, keep house; the disk tier is full and evicts."""
    gc.freeze()  # what the interpreter itself has takes a full collection 10 ms
    store = _open(home, scale)
    space = store.space(identity_of(LAYOUT))
    _wait_until_idle()
    saves, loads, houses = [_NO_PAUSE], [_NO_PAUSE], [_NO_PAUSE]
    for number in range(scale.churn // _BATCH):
        saves.append(_pause(partial(_save, space, number)))
        loads.append(_pause(partial(_load, space, number)))
        if number % _HOUSE_EVERY == 0:
            houses.append(_pause(store.expire))
            houses.append(_pause(store.stats))
        _wait_for_disk(store)
    save_ms, load_ms, house_ms = (max(p.thread for p in each) for each in (saves, loads, houses))
    process_ms = max(pause.process for pause in (*saves, *loads, *houses))
    return _Churn(save_ms, load_ms, house_ms, process_ms, store.counters.evicted[DISK])


def _pause(call: Callable[[], object]) -> _Pause:
    start = time.process_time()
    thread_s = seconds(call, time.thread_time)
    return _Pause(thread_s * 1e3, (time.process_time() - start) * 1e3)


def _save(space: Space, number: int) -> None:
    space.save(prompt_of(number, _BATCH * LAYOUT.block_tokens), NoPages())


def _load(space: Space, number: int) -> None:
    tokens = prompt_of(number, _BATCH * LAYOUT.block_tokens)
    with space.hold(space.match(tokens)) as hit:
        hit.load(NoPages())


def _wait_until_idle() -> None:
    """Let the store's threads do what they do once: touch memory, format, commit."""
    spent = _IDLE_S
    while spent >= _IDLE_S / 10:
        spent = time.process_time()
        time.sleep(_IDLE_S)
        spent = time.process_time() - spent


def _wait_for_disk(store: Store) -> None:
    counters = store.counters
    while counters.saved - counters.demoted - counters.dropped_dirty > _AHEAD:
        time.sleep(_NAP_S)
