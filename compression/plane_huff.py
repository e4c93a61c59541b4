"""Lossless, at about 0.68 of bf16: Huffman codes for the byte that holds the exponent.

Claim: of a KV value only the exponent can be compressed; sign and mantissa look random.  Huffman
codes on the top byte alone come within 6 % of the best lossless size known, at more than twice the
speed of zstd level 1 on all bytes; searching for matches costs time *and* size.

Mechanism: the block is cut into chunks of one plane (K or V, whose exponents differ) and as many
layers as make 256 KiB, so that a chunk stays in the processor's second-level cache.  The top byte
of every element goes through zstd with parameters that all but switch off its search; where the
result is not smaller these bytes are stored as they are, and so are the lower ones of the element.

Segment: for each chunk its coded length, u32-LE; then for each chunk
    coded   where ``length`` is the chunk's number of elements n: their top bytes as they are;
            where it is less: one zstd frame, its content size given, of n bytes
    rest    the lower bytes of n elements: for 2-byte types n bytes; for float32 n bytes (bits
            16-23), then n u16-LE (bits 0-15); nothing for 1-byte types
Chunks are in the order of layers, then planes, then pieces of a plane.  They hold at most E =
131,072 elements (65,536 of float32).  With w elements in one plane of one layer that is max(1,
E // w) layers, or, where w > E, one of ceil(w / E) pieces of a plane, of equal size but the last.
These figures are the format: other ones are another codec.

Sources: ZipNN (arXiv 2411.05239) for the split; zstd (RFC 8878) for the codes.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from threading import local
from typing import NamedTuple

import numpy as np
import zstandard
from numpy.typing import NDArray

from ..kvstore.errors import CodecError
from ..kvstore.layout import DTYPE_BYTES, Group
from .codec import (
    BASE,
    Block,
    Bytes,
    Encoded,
    Segment,
    Shape,
    block_bytes,
    layer_range,
    require_room,
    whole_base,
)

HUFFMAN_ONLY = zstandard.ZstdCompressionParameters(
    window_log=17,
    chain_log=6,
    hash_log=6,
    search_log=1,
    min_match=7,
    target_length=0,
    strategy=zstandard.STRATEGY_FAST,
)
"""What makes zstd find next to no matches and still code literals; standard frames come out."""

Words = NDArray[np.unsignedinteger]

_CHUNK_BYTES = 1 << 18
_WORD: dict[int, np.dtype[np.unsignedinteger]] = {
    1: np.dtype("u1"),
    2: np.dtype("<u2"),
    4: np.dtype("<u4"),
}
_LENGTH = np.dtype("<u4")


class PlaneHuff:
    """Splits elements into byte planes and Huffman-codes the top one.

    Exact for every bit pattern of every dtype.  Thread-safe: each thread has its own workbench.
    """

    name = "plane-huff"
    number = 1

    def __init__(self) -> None:
        self._local = _Local()

    def bound(self, group: Group, shape: Shape) -> int:
        """The block's own size and four bytes for each chunk."""
        chunks = _chunks(shape, DTYPE_BYTES[group.dtype])
        return block_bytes(group, shape) + _LENGTH.itemsize * len(chunks)

    def encode(self, blocks: Sequence[Block], into: Sequence[Bytes]) -> list[list[Segment]]:
        """Encode each block as one segment."""
        bench = self._local.bench
        encoded = []
        for block, buffer in zip(blocks, into, strict=True):
            require_room(buffer, self.bound(block.group, block.shape))
            length = _encode(bench, block, buffer)
            encoded.append([Segment(BASE, (0, block.shape[0]), length)])
        return encoded

    def decode(
        self,
        frames: Sequence[Sequence[Encoded]],
        into: Sequence[Block],
        *,
        layers: tuple[int, int] | None = None,
    ) -> None:
        """Decode each frame; chunks without a wanted layer are stepped over.

        Raises ``CodecError`` for lengths that do not add up to the segment's and for coded bytes
        that are not a zstd frame of exactly the chunk's size.
        """
        bench = self._local.bench
        for frame, block in zip(frames, into, strict=True):
            _decode(bench, whole_base(frame, block), block, layer_range(block, layers))


class _Chunk(NamedTuple):
    """A part of a block that is coded by itself."""

    layers: tuple[int, int]
    plane: int
    span: tuple[int, int]  # of one layer's elements in this plane
    shape: tuple[int, int]  # [layer, element]
    size: int

    def of(self, words: Words, layers: tuple[int, int]) -> Words:
        """The chunk's elements in these layers of a block; ``words`` is [layer, plane, element]."""
        return words[layers[0] : layers[1], self.plane, self.span[0] : self.span[1]]


@lru_cache(maxsize=32)
def _chunks(shape: Shape, itemsize: int) -> tuple[_Chunk, ...]:
    layers, planes, tokens, heads, dim = shape
    width = tokens * heads * dim
    most = _CHUNK_BYTES // max(2, itemsize)
    deep = max(1, most // width)
    piece = -(-width // -(-width // most))
    return tuple(
        _chunk((first, min(first + deep, layers)), plane, (start, min(start + piece, width)))
        for first in range(0, layers, deep)
        for plane in range(planes)
        for start in range(0, width, piece)
    )


def _chunk(layers: tuple[int, int], plane: int, span: tuple[int, int]) -> _Chunk:
    shape = layers[1] - layers[0], span[1] - span[0]
    return _Chunk(layers, plane, span, shape, shape[0] * shape[1])


def _words(block: Block) -> Words:
    itemsize = DTYPE_BYTES[block.group.dtype]
    return block.data.view(_WORD[itemsize]).reshape(block.shape[0], block.shape[1], -1)


def _encode(bench: "_Workbench", block: Block, out: Bytes) -> int:
    words = _words(block)
    chunks = _chunks(block.shape, words.itemsize)
    end = _LENGTH.itemsize * len(chunks)
    lengths = np.empty(len(chunks), _LENGTH)
    for number, chunk in enumerate(chunks):
        start = end
        end = bench.write(chunk.of(words, chunk.layers), out, start)
        lengths[number] = end - start - chunk.size * (words.itemsize - 1)
    out[: lengths.nbytes] = lengths.view(np.uint8)
    return end


def _decode(bench: "_Workbench", data: Bytes, block: Block, wanted: tuple[int, int]) -> None:
    words = _words(block)
    chunks = _chunks(block.shape, words.itemsize)
    for chunk, coded, rest in _parts(data, chunks, words.itemsize):
        layers = max(wanted[0], chunk.layers[0]), min(wanted[1], chunk.layers[1])
        if layers == chunk.layers:
            bench.read(coded, rest, chunk.of(words, layers))
        elif layers[0] < layers[1]:
            whole = np.empty(chunk.shape, words.dtype)
            bench.read(coded, rest, whole)
            first = chunk.layers[0]
            np.copyto(chunk.of(words, layers), whole[layers[0] - first : layers[1] - first])


def _parts(
    data: Bytes, chunks: Sequence[_Chunk], itemsize: int
) -> Iterator[tuple[_Chunk, Bytes, Bytes]]:
    """Each chunk with its coded and its other bytes; all lengths are checked before the first."""
    start = _LENGTH.itemsize * len(chunks)
    lengths: list[int] = data[:start].view(_LENGTH).tolist() if data.size >= start else []
    total = start + sum(lengths) + sum(chunk.size for chunk in chunks) * (itemsize - 1)
    if total != data.size or any(
        not 0 < length <= chunk.size for length, chunk in zip(lengths, chunks, strict=True)
    ):
        raise CodecError(f"{len(chunks)} chunks whose lengths do not make {data.size} bytes")
    for chunk, length in zip(chunks, lengths, strict=True):
        middle = start + length
        end = middle + chunk.size * (itemsize - 1)
        yield chunk, data[start:middle], data[middle:end]
        start = end


class _Views(NamedTuple):
    """A workbench's scratch arrays, as chunks of one shape and one size of word see them."""

    high: Words  # half words
    wide: Words  # whole words
    late: Words  # the same, but each begins half a word later


class _Workbench:
    """One thread's compressor, decompressor and scratch arrays of a chunk's size.

    Words are split and put together by casts and shifts, which numpy does with vector
    instructions; copying with a stride of two is several times slower.
    """

    def __init__(self) -> None:
        self._compressor = zstandard.ZstdCompressor(compression_params=HUFFMAN_ONLY)
        self._decompressor = zstandard.ZstdDecompressor()
        self._high = {half: np.empty(_CHUNK_BYTES // 2, np.uint8) for half in (1, 2)}
        self._wide = {half: np.zeros(_CHUNK_BYTES + half, np.uint8) for half in (1, 2)}
        self._views = lru_cache(maxsize=32)(self._see)

    def write(self, words: Words, out: Bytes, start: int) -> int:
        """Encode a chunk, ``[layer, element]``, at ``out[start:]``; where it ends."""
        if words.itemsize == 1:
            return self._write_top(words, out, start)
        high = self._views(words.shape, words.itemsize).high
        np.right_shift(words, 8 * high.itemsize, out=high, casting="unsafe")
        start = self.write(high, out, start)
        end = start + high.nbytes
        low = out[start:end].view(high.dtype).reshape(words.shape)
        np.copyto(low, words, casting="unsafe")
        return end

    def _write_top(self, top: Words, out: Bytes, start: int) -> int:
        plain = np.ascontiguousarray(top).reshape(-1)
        coded = np.frombuffer(self._compressor.compress(plain.data), np.uint8)
        stored = coded if coded.size < plain.size else plain
        end = start + stored.size
        np.copyto(out[start:end], stored)
        return end

    def read(self, coded: Bytes, rest: Bytes, out: Words) -> None:
        """Decode a chunk into ``out``, ``[layer, element]``.

        Zero-extending the high halves into a view that starts half a word later puts each where it
        belongs, without a shift; nothing ever writes the half word before that view.
        """
        if out.itemsize == 1:
            np.copyto(out, self._read_top(coded, out.size).reshape(out.shape))
            return
        high, wide, late = self._views(out.shape, out.itemsize)
        start = rest.size - high.nbytes
        if high.itemsize == 1:
            high = self._read_top(coded, out.size).reshape(out.shape)
        else:
            self.read(coded, rest[:start], high)
        np.copyto(late, high)
        low = rest[start:].view(high.dtype).reshape(out.shape)
        np.bitwise_or(wide, low, out=out)

    def _read_top(self, coded: Bytes, size: int) -> Bytes:
        if coded.size == size:
            return coded
        top = self._high[1][:size]
        try:
            if zstandard.frame_content_size(coded.data) != size:
                raise CodecError(f"coded bytes do not declare {size} elements")
            with self._decompressor.stream_reader(coded.data) as reader:
                count = reader.readinto(top)
        except zstandard.ZstdError as exc:
            raise CodecError(f"coded bytes are damaged: {exc}") from exc
        if count != size:
            raise CodecError(f"coded bytes end after {count} of {size} elements")
        return top

    def _see(self, shape: tuple[int, int], itemsize: int) -> _Views:
        half = itemsize // 2
        nbytes = shape[0] * shape[1] * itemsize
        wide, word = self._wide[half], _WORD[itemsize]
        return _Views(
            self._high[half][: nbytes // 2].view(_WORD[half]).reshape(shape),
            wide[:nbytes].view(word).reshape(shape),
            wide[half : half + nbytes].view(word).reshape(shape),
        )


class _Local(local):
    """Each thread's workbench, made when the thread first needs it."""

    def __init__(self) -> None:
        self.bench = _Workbench()
