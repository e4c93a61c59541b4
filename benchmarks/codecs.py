"""What the codecs cost on one core, beside a copy and beside zstd on shuffled bytes.

    python benchmarks/codecs.py [--model DIR] [--rounds 40] [--json]

GB/s of uncompressed bytes in thread CPU time, shuffling included; size is encoded / uncompressed.
``zstd 1`` is what one would otherwise write: numpy's byte shuffle and zstd level 1 on all of it.
``codes only`` is zstd's share of plane-huff, whose planes were cut beforehand: the limit of any
split.  Interleaved; medians of all rounds, and the best round in brackets, for on shared machines
the median says more of the neighbours.  ``--model`` names a directory with a model that
transformers can load (safetensors or one GGUF file); its KV of 1,024 tokens is then measured too.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from pydoc_data.topics import topics
from statistics import median
from time import thread_time
from typing import NamedTuple

import numpy as np
import zstandard
from numpy.typing import NDArray

from kvstrata.compression.codec import Block, Bytes, Codec, Encoded
from kvstrata.compression.codecs import CODECS
from kvstrata.compression.plane_huff import HUFFMAN_ONLY
from kvstrata.kvstore.layout import DTYPE_BYTES, Group

Array = NDArray[np.generic]

SMALL = (32, 2, 16, 8, 128)  # [layer, plane, token, head, dim]: 2 MiB of bf16
LARGE = (32, 2, 256, 8, 128)  # 32 MiB
TOKENS = 1024


class Method(NamedTuple):
    """A way to encode one block: bytes that it takes, and back again."""

    name: str
    encode: Callable[[], int]
    decode: Callable[[], None]


class Row(NamedTuple):
    """What one method did with one block."""

    data: str
    mib: float
    method: str
    size: float
    encode_gb_s: float
    decode_gb_s: float
    encode_best_gb_s: float
    decode_best_gb_s: float


def block_of(array: Array, dtype: str) -> Block:
    """A block of these elements, ``[layer, plane, token, head, dim]``."""
    layers, planes, tokens, heads, dim = array.shape
    group = Group(tuple(range(layers)), heads, dim, dtype, planes=planes)
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return Block(group, (layers, planes, tokens, heads, dim), data)


def bfloat16(array: NDArray[np.float32]) -> Array:
    """Rounded towards zero, as uint16."""
    return np.ascontiguousarray(array.view(np.uint16)[..., 1::2])


def synthetic() -> Iterator[tuple[str, Block]]:
    """Normally distributed numbers, and such whose channels have scales and means of their own."""
    rng = np.random.default_rng(0)
    small = rng.standard_normal(SMALL, np.float32)
    scale = np.exp(rng.standard_normal((32, 2, 1, 8, 128), np.float32))
    mean = 1.5 * rng.standard_normal(scale.shape, np.float32)
    large = rng.standard_normal(LARGE, np.float32)
    yield "normal bf16", block_of(bfloat16(small), "bfloat16")
    yield "channels bf16", block_of(bfloat16((small + mean) * scale), "bfloat16")
    yield "channels fp16", block_of(((small + mean) * scale).astype(np.float16), "float16")
    yield "channels fp32", block_of((small + mean) * scale, "float32")
    yield "normal bf16", block_of(bfloat16(large), "bfloat16")
    yield "channels bf16", block_of(bfloat16((large + mean) * scale), "bfloat16")


def real(model: Path) -> Iterator[tuple[str, Block]]:
    """A model's KV of Python's reference, as the model computes it in bf16 and in fp32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    gguf = next((path.name for path in model.glob("*.gguf")), None)
    tokenizer = AutoTokenizer.from_pretrained(model, gguf_file=gguf)
    tokens = tokenizer(topics["specialnames"], return_tensors="pt").input_ids[:, :TOKENS]
    for dtype, name in ((torch.bfloat16, "bfloat16"), (torch.float32, "float32")):
        engine = AutoModelForCausalLM.from_pretrained(model, dtype=dtype, gguf_file=gguf)
        with torch.no_grad():
            cache = engine(tokens, use_cache=True, logits_to_keep=1).past_key_values
        kv = torch.stack([torch.stack([each.keys[0], each.values[0]]) for each in cache.layers])
        kv = kv.transpose(2, 3).contiguous()  # [layer, plane, token, head, dim]
        for tokens_each in (64, TOKENS):
            words = kv[:, :, -tokens_each:].contiguous()
            integers = torch.uint16 if dtype is torch.bfloat16 else torch.uint32
            yield f"real {name}", block_of(words.view(integers).numpy(), name)
        if dtype is torch.float32:
            for fp8 in (torch.float8_e4m3fn, torch.float8_e5m2):
                name = str(fp8).removeprefix("torch.")
                codes = kv[:, :, -128:].to(fp8).view(torch.uint8).numpy()
                yield f"real {name}", block_of(codes, name)


def through(codec: Codec, block: Block) -> Method:
    """One of our codecs, into buffers that were used before."""
    buffer = np.zeros(codec.bound(block.group, block.shape), np.uint8)
    [[segment]] = codec.encode([block], [buffer])
    restored = Block(block.group, block.shape, np.zeros_like(block.data))
    frame = [[Encoded(segment, buffer[: segment.length])]]
    codec.decode(frame, [restored])
    assert np.array_equal(restored.data, block.data)
    return Method(
        codec.name,
        lambda: codec.encode([block], [buffer])[0][0].length,
        lambda: codec.decode(frame, [restored]),
    )


def copied(block: Block) -> Method:
    """The yardstick."""
    target = np.zeros_like(block.data)

    def copy() -> int:
        np.copyto(target, block.data)
        return target.size

    return Method("np.copyto", copy, lambda: np.copyto(target, block.data))


def shuffled(block: Block) -> Method:
    """All byte planes through zstd level 1."""
    width = DTYPE_BYTES[block.group.dtype]
    compressor, decompressor = zstandard.ZstdCompressor(level=1), zstandard.ZstdDecompressor()
    target = np.zeros_like(block.data)

    def encode() -> bytes:
        planes = np.ascontiguousarray(block.data.reshape(-1, width).T)
        return compressor.compress(planes.reshape(-1).data)

    coded = encode()

    def decode() -> None:
        planes = np.frombuffer(decompressor.decompress(coded), np.uint8).reshape(width, -1)
        np.copyto(target.reshape(-1, width), planes.T)

    return Method("zstd 1", lambda: len(encode()), decode)


def codes_only(block: Block) -> Method:
    """The coding of top bytes that were cut out beforehand, 128 KiB at a time."""
    width = DTYPE_BYTES[block.group.dtype]
    top = np.ascontiguousarray(block.data.reshape(-1, width)[:, -1])
    pieces: list[Bytes] = [top[at : at + (1 << 17)] for at in range(0, top.size, 1 << 17)]
    compressor = zstandard.ZstdCompressor(compression_params=HUFFMAN_ONLY)
    decompressor = zstandard.ZstdDecompressor()
    coded = [compressor.compress(piece.data) for piece in pieces]

    def encode() -> int:
        return block.data.size - top.size + sum(len(compressor.compress(p.data)) for p in pieces)

    def decode() -> None:
        for piece, each in zip(pieces, coded, strict=True):
            with decompressor.stream_reader(each) as reader:
                reader.readinto(piece)

    return Method("codes only", encode, decode)


def measure(data: str, block: Block, rounds: int) -> Iterator[Row]:
    """A row for each method, their rounds interleaved."""
    methods = [
        copied(block), *(through(codec, block) for codec in CODECS.values()),
        codes_only(block), shuffled(block),
    ]  # fmt: skip
    if block.data.size > 8 << 20:
        rounds = max(5, rounds // 8)
    encodes, decodes = [], []
    for _ in range(rounds):
        encodes.append([timed(method.encode) for method in methods])
        decodes.append([timed(method.decode) for method in methods])
    gb = block.data.size / 1e9
    for number, method in enumerate(methods):
        encode = [each[number] for each in encodes]
        decode = [each[number] for each in decodes]
        yield Row(
            data, block.data.size / 2**20, method.name, method.encode() / block.data.size,
            gb / median(encode), gb / median(decode), gb / min(encode), gb / min(decode),
        )  # fmt: skip


def timed(call: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    start = thread_time()
    call()
    return thread_time() - start


def main() -> None:
    """Print a table, or a JSON array of rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="directory of a model, for real KV")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    sources = [synthetic()] + ([real(options.model)] if options.model else [])
    rows = []
    if not options.json:
        print(
            f"{'data':22}{'MiB':>6} {'method':12}{'size':>6}{'encode GB/s':>16}{'decode GB/s':>16}"
        )
    for data, block in (each for source in sources for each in source):
        for row in measure(data, block, options.rounds):
            rows.append(row._asdict())
            if not options.json:
                print(
                    f"{row.data:22}{row.mib:6.1f} {row.method:12}{row.size:6.3f}"
                    f"{row.encode_gb_s:8.2f} ({row.encode_best_gb_s:5.2f})"
                    f"{row.decode_gb_s:8.2f} ({row.decode_best_gb_s:5.2f})"
                )
    if options.json:
        print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
