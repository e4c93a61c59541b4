"""How much of a slab is payload after a long churn of mixed sizes: counted, not timed.

Everything else counts as lost: header slots, the superblock, the rest of each last page, pages that
nobody could use.  Blocks leave in the order in which they came and were used, as under LRU.
"""

from collections import deque
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..kvstore.layout import Group, Layout, default_block_tokens
from ..kvstore.slab import PAGE_BYTES, SLOT_BYTES, Slab, slots_for
from .bench_figures import Figure, Spread
from .bench_ground import MIB, Scale, layout_of

_CHURN = 12  # how often everything in the slab is replaced
_SEED = 7
_RECENT = 0.5  # of the blocks that leave, how many get another life at the end of the queue
_ZIPPED = (0.62, 0.72)  # of bf16, what a lossless codec leaves


def slab(scale: Scale, directory: Path) -> list[Figure]:
    """Payload over slab at steady state: the mean, and the least as the lower quartile."""
    del directory  # nothing is written
    return [
        Figure(f"payload / slab, {name}", _churned(sizes, 2 * scale.burst), aim, note=_told(sizes))
        for name, sizes, aim in _mixes()
    ]


def _mixes() -> list[tuple[str, Sequence[int], float]]:
    rng = np.random.default_rng(_SEED)
    whole = [layout_of(MIB), layout_of(2 * MIB)]
    bf16 = [layout.frame_bytes(0, layout.block_tokens) for layout in whole]
    sharded = [Layout(layout.groups, layout.block_tokens, shards=8) for layout in whole]
    shards = [layout.frame_bytes(0, layout.block_tokens) for layout in sharded]
    smol = Group(tuple(range(30)), heads=3, head_dim=64, dtype="bfloat16")
    smol_block = default_block_tokens(smol.token_bytes) * smol.token_bytes
    zipped = [int(2 * MIB * share) for share in rng.uniform(*_ZIPPED, 64)]
    return [
        ("bf16, 1 and 2 MiB", bf16, 0.95),
        ("lossless, 1.2 to 1.5 MiB", zipped, 0.95),
        ("SmolLM2", [smol_block], 0.95),
        ("TP8 shards", shards, 0.90),
        ("8 times smaller", [nbytes // 8 for nbytes in bf16], 0.90),
        ("all of these", [*bf16, *zipped[:4], smol_block, *shards], 0.90),
    ]


def _churned(sizes: Sequence[int], nbytes: int) -> Spread:
    """Payload / slab of ``nbytes``: mean as the median, least and most as the quartiles."""
    rng = np.random.default_rng(_SEED)
    slots = slots_for(nbytes)
    place = Slab(slots, (nbytes - (slots + 1) * SLOT_BYTES) // PAGE_BYTES)
    order: deque[tuple[int, int]] = deque()
    payload, shares = 0, []
    for _ in range(_CHURN * nbytes // int(np.mean(sizes))):
        size = sizes[int(rng.integers(len(sizes)))]
        while (slot := place.take(size)) < 0:
            shares.append(payload / nbytes)
            if rng.random() < _RECENT:
                order.rotate(-1)
            gone, length = order.popleft()
            place.give(gone)
            payload -= length
        order.append((slot, size))
        payload += size
    steady = shares[len(shares) // 2 :]
    return Spread(float(np.mean(steady)), min(steady), max(steady))


def _told(sizes: Sequence[int]) -> str:
    return f"frames of {min(sizes) >> 10} to {max(sizes) >> 10} KiB"
