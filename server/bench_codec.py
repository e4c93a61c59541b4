"""The lossless codec on one core: GB/s of raw bytes in and out, and what is left of them.

The blocks are made up to look like KV: channels of very different size, neighbouring tokens alike
(an autoregressive walk), bf16.  ``benchmarks/codecs.py`` has the figures on a real model's KV.
"""

import time
from pathlib import Path

import numpy as np

from ..compression.codec import BASE, Block, Bytes, Encoded, Segment
from ..compression.codecs import CODECS
from .bench_figures import Figure, exactly, seconds, spread
from .bench_ground import MIB, Scale, layout_of

_BLOCKS = 4
_ALIKE = 0.9  # correlation of neighbouring tokens
_SIGMA = 1.0  # of the logarithm of channel sizes


def codec(scale: Scale, directory: Path) -> list[Figure]:
    """``plane-huff`` on blocks of 2 MiB, one after the other."""
    del directory  # nothing is written
    chosen = CODECS["plane-huff"]
    layout = layout_of(2 * MIB)
    group, shape = layout.groups[0], layout.frame_shape(0, layout.block_tokens)
    blocks = [Block(group, shape, _like_kv(shape, seed)) for seed in range(_BLOCKS)]
    room = [np.empty(chosen.bound(group, shape), np.uint8) for _ in blocks]
    segments = chosen.encode(blocks, room)
    frames = [
        [Encoded(each, data[: each.length]) for each in parts]
        for parts, data in zip(segments, room, strict=True)
    ]
    out = [Block(group, shape, np.empty(block.data.size, np.uint8)) for block in blocks]
    raw = sum(block.data.size for block in blocks)
    encodes, decodes = [], []
    for _ in range(scale.rounds):
        encodes.append(seconds(lambda: chosen.encode(blocks, room), time.thread_time))
        decodes.append(seconds(lambda: chosen.decode(frames, out), time.thread_time))
    if any(not np.array_equal(a.data, b.data) for a, b in zip(out, blocks, strict=True)):
        raise AssertionError("a lossless codec lost something")
    kept = sum(_base(parts) for parts in segments) / raw
    note = "per core, blocks made up to look like KV"
    encode, decode = (spread([raw / s / 1e9 for s in times]) for times in (encodes, decodes))
    return [
        Figure("plane-huff encode", encode, 1.2, "GB/s", note=note),
        Figure("plane-huff decode", decode, 2.5, "GB/s", note=note),
        Figure("plane-huff size / bf16", exactly(kept), 0.71, at_most=True, note=note),
    ]


def _base(segments: list[Segment]) -> int:
    return sum(segment.length for segment in segments if segment.kind == BASE)


def _like_kv(shape: tuple[int, int, int, int, int], seed: int) -> Bytes:
    rng = np.random.default_rng(seed)
    layers, planes, tokens, heads, dim = shape
    values = rng.standard_normal(shape, np.float32)
    for token in range(1, tokens):
        values[:, :, token] *= np.sqrt(1 - _ALIKE**2)
        values[:, :, token] += _ALIKE * values[:, :, token - 1]
    values *= rng.lognormal(0, _SIGMA, (layers, planes, 1, heads, dim)).astype(np.float32)
    words = values.reshape(-1).view(np.uint32)
    data: Bytes = ((words + 0x8000) >> 16).astype(np.uint16).view(np.uint8)  # to bf16, rounded
    return data
