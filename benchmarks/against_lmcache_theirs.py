"""LMCache's side of ``benchmarks/against_lmcache.py``: runs in LMCache's own environment.

    python benchmarks/against_lmcache_theirs.py CASE --dir DIR --chunks 16 --repeat 3

Drives the StorageManager of LMCache 0.5.6 (what ``lmcache server`` runs on) as its server does:
``ram`` is its L1 alone, the others put one of its disk adapters below.  A put ends when the chunks
are where the case says: in L1, or written by the adapter, which syncs nothing.  A get ends when the
bytes are in the caller's tensors.  Prints one JSON object: seconds of each put and get.
"""

import argparse
import json
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # spinning OpenMP threads slow copies tenfold
os.environ.setdefault("LMCACHE_TRACK_USAGE", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("LMCACHE_LOG_LEVEL", "ERROR")

import torch
from lmcache.v1.distributed import api, config  # type: ignore[import-not-found]
from lmcache.v1.distributed.l2_adapters.config import (  # type: ignore[import-not-found]
    L2AdaptersConfig,
    parse_args_to_l2_adapters_config,
)
from lmcache.v1.distributed.storage_manager import (  # type: ignore[import-not-found]
    StorageManager,
)

SHAPE = torch.Size([2, 32, 256, 1024])  # 256 tokens of Llama-3-8B, 32 MiB in bf16
CHUNK_BYTES = SHAPE.numel() * 2
ADAPTERS = {
    "ram": None,
    "fs": {"type": "fs"},
    "fs-native": {"type": "fs_native", "num_workers": 4},
    "fs-direct": {"type": "fs_native", "num_workers": 4, "use_odirect": True},
}
_PATIENCE_S = 120.0
_NAP_S = 0.0005
_L1_TIMES, _L1_MORE = 3, 8  # room for three rounds and some chunks more, so that nothing is refused


class Side:
    """One StorageManager with the caller's tensors beside it."""

    def __init__(self, case: str, directory: Path, chunks: int) -> None:
        self.layout = api.MemoryLayoutDesc(shapes=[SHAPE], dtypes=[torch.bfloat16])
        self.adapter = ADAPTERS[case]
        self.directory = directory
        self.manager = StorageManager(
            config.StorageManagerConfig(
                l1_manager_config=config.L1ManagerConfig(
                    memory_config=config.L1MemoryManagerConfig(
                        size_in_bytes=(_L1_TIMES * chunks + _L1_MORE) * CHUNK_BYTES,
                        use_lazy=False,
                        align_bytes=4096,
                        shm_name="",
                    )
                ),
                eviction_config=config.EvictionConfig(eviction_policy="LRU", trigger_watermark=1.0),
                l2_adapter_config=L2AdaptersConfig(self._adapters()),
            )
        )
        words = torch.arange(SHAPE.numel(), dtype=torch.int64) * 40_503
        noise = words.to(torch.int16).view(torch.bfloat16).reshape(SHAPE)
        self.source = [noise.roll(n * 977, dims=2).clone() for n in range(chunks)]
        self.target = [torch.zeros(SHAPE, dtype=torch.bfloat16) for _ in range(chunks)]

    def put(self, keys: Sequence[api.ObjectKey]) -> None:
        """Store every chunk; returns when all of them are where they belong."""
        reserved = self.manager.reserve_write(keys, self.layout)
        if len(reserved) != len(keys):
            raise AssertionError(f"{len(reserved)} of {len(keys)} chunks were taken")
        for key, chunk in zip(keys, self.source, strict=True):
            reserved[key].tensor.copy_(chunk)
        self.manager.finish_write(list(reserved))
        if self.adapter is not None:
            self._wait_for_disk(keys)

    def get(self, keys: Sequence[api.ObjectKey]) -> None:
        """Copy every chunk out."""
        group = api.GroupedObjectKeys(keys=keys, object_group_id=0, layout_desc=self.layout)
        task = self.manager.submit_prefetch_task(api.PrefetchTaskSpec(key_groups=[group]))
        if not self.manager.wait_prefetch_status(task, _PATIENCE_S):
            raise AssertionError("the prefetch did not end")
        status = self.manager.query_prefetch_status(task)
        if status.hit_cells[0].count_leading_ones() != len(keys):
            raise AssertionError("a chunk that was stored is not found")
        if self.adapter is not None and status.l2_hit_count != len(keys):
            raise AssertionError("a chunk came from memory where it was to come from disk")
        with self.manager.read_prefetched_results(keys) as found:
            for chunk, target in zip(found, self.target, strict=True):
                target.copy_(chunk.tensor.view(SHAPE))
        self.manager.finish_read_prefetched(keys)

    def cool(self) -> None:
        """Leave nothing of what is on disk in memory, neither here nor in the page cache."""
        self.manager.clear()
        for path in self.directory.rglob("*"):
            if path.is_file():
                fd = os.open(path, os.O_RDONLY)
                os.fsync(fd)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(fd)

    def check(self) -> None:
        """What came out is what went in."""
        pairs = zip(self.source, self.target, strict=True)
        if not all(torch.equal(a.view(torch.int16), b.view(torch.int16)) for a, b in pairs):
            raise AssertionError("other bytes came back than were stored")

    def _adapters(self) -> list[object]:
        if self.adapter is None:
            return []
        text = json.dumps({**self.adapter, "base_path": str(self.directory)})
        found = parse_args_to_l2_adapters_config(argparse.Namespace(l2_adapter=[text]))
        return list(found.adapters)

    def _wait_for_disk(self, keys: Sequence[api.ObjectKey]) -> None:
        """Ask the adapter until it has every chunk and L1 has let go of them."""
        adapter = next(iter(self.manager._l2_adapters.values()))
        end = time.perf_counter() + _PATIENCE_S
        while time.perf_counter() < end:
            task = adapter.submit_lookup_and_lock_task(keys, {0: self.layout})
            while (found := adapter.query_lookup_and_lock_result(task)) is None:
                time.sleep(_NAP_S)
            adapter.submit_unlock(keys)
            l1 = self.manager._l1_manager
            if found.popcount() == len(keys) and all(map(l1.is_key_evictable, keys)):
                return
            time.sleep(_NAP_S)
        raise AssertionError("chunks did not reach the disk; LMCache says so in its log only")


def keys_of(number: int, chunks: int) -> list[api.ObjectKey]:
    """Keys that no other round has."""
    rank = api.ObjectKey.ComputeKVRank(1, 0, 1, 0)
    return [
        api.ObjectKey(
            chunk_hash=(number << 16 | chunk).to_bytes(32, "big"),
            model_name="llama-3-8b",
            kv_rank=rank,
        )
        for chunk in range(chunks)
    ]


def main() -> None:
    """Measure one case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=ADAPTERS)
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--chunks", type=int, default=16)
    parser.add_argument("--repeat", type=int, default=3)
    asked = parser.parse_args()
    directory = asked.dir / f"lmcache-{asked.case}"
    directory.mkdir(parents=True)
    side = Side(asked.case, directory, asked.chunks)
    puts, gets = [], []
    for number in range(asked.repeat + 1):  # the first one touches every buffer
        keys = keys_of(number, asked.chunks)
        start = time.perf_counter()
        side.put(keys)
        puts.append(time.perf_counter() - start)
        if side.adapter is not None:
            side.cool()
        start = time.perf_counter()
        side.get(keys)
        gets.append(time.perf_counter() - start)
        side.check()
        side.manager.clear(force=True)
    side.manager.close()
    shutil.rmtree(directory)
    print(json.dumps({"put_s": puts[1:], "get_s": gets[1:]}), flush=True)


if __name__ == "__main__":
    main()
