"""The bytes of plane-huff, held against bytes written by hand, and against hostile ones.

``TestPlaneHuff`` in test_codecs.py holds it to what every codec keeps.
"""

import tracemalloc

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from kvstrata.compression.codec import BASE, Block, Bytes, Encoded, Segment
from kvstrata.compression.plane_huff import PlaneHuff
from kvstrata.kvstore.errors import CodecError
from kvstrata.kvstore.layout import DTYPE_BYTES
from tests.contracts.codec import Shape, block_of, cut, kv_like

CODEC = PlaneHuff()
FULL = 131_072  # elements in the largest chunk of 1 and 2 byte types


def encoded(block: Block) -> Bytes:
    """The bytes of the block's one segment."""
    buffer = np.zeros(CODEC.bound(block.group, block.shape), np.uint8)
    [[only]] = [cut(buffer, segments) for segments in CODEC.encode([block], [buffer])]
    assert only.segment == Segment(BASE, (0, block.shape[0]), only.data.size)
    return only.data


def decoded(data: bytes | Bytes, shape: Shape, dtype: str) -> bytes:
    """What a segment of these bytes decodes to."""
    array = np.frombuffer(data, np.uint8)
    block = block_of(shape, dtype)
    CODEC.decode([[Encoded(Segment(BASE, (0, shape[0]), array.size), array)]], [block])
    return block.data.tobytes()


def random_bytes(nbytes: int) -> Bytes:
    """Bytes that no code makes smaller."""
    return np.random.default_rng(nbytes).integers(0, 256, nbytes, np.uint8)


@pytest.mark.parametrize(
    ("dtype", "elements", "segment"),
    [
        ("bfloat16", "0100 80ff c07f 3412", "04000000 00ff7f12 0180c034"),
        ("float16", "0100 00fc 017e 3412", "04000000 00fc7e12 01000134"),
        (
            "float32",
            "01000000 000080ff 0000c07f 78563412",
            "04000000 00ff7f12 0080c034 0100 0000 0000 7856",
        ),
        ("float8_e4m3fn", "01 80 7f 12", "04000000 01807f12"),
        ("float8_e5m2", "01 80 7c 12", "04000000 01807c12"),
    ],
)
def test_a_tiny_block_has_exactly_these_bytes(dtype: str, elements: str, segment: str) -> None:
    shape = (1, 1, 2, 1, 2)
    block = block_of(shape, dtype, bytes.fromhex(elements))
    assert encoded(block).tobytes() == bytes.fromhex(segment)
    assert decoded(bytes.fromhex(segment), shape, dtype) == bytes.fromhex(elements)


def test_a_coded_chunk_written_by_hand_decodes() -> None:
    frame = "28b52ffd 20 40 030200 3f"  # magic, one segment of 0x40 bytes; last block, RLE: 0x3f
    segment = bytes.fromhex("0a000000" + frame) + bytes(range(64))
    expected = b"".join(bytes((low, 0x3F)) for low in range(64))
    assert decoded(segment, (1, 1, 8, 1, 8), "bfloat16") == expected


def test_a_chunk_is_one_plane_of_as_many_layers_as_fit() -> None:
    width = FULL // 2 - 1
    block = block_of((3, 2, width, 1, 1), "bfloat16", random_bytes(3 * 2 * width * 2))
    words = block.data.reshape(3, 2, width, 2)
    chunks = [words[0:2, 0], words[0:2, 1], words[2:3, 0], words[2:3, 1]]
    lengths = np.array([chunk.size // 2 for chunk in chunks], "<u4")
    planes = [chunk[..., byte].tobytes() for chunk in chunks for byte in (1, 0)]
    assert encoded(block).tobytes() == lengths.tobytes() + b"".join(planes)


@pytest.mark.parametrize(
    ("dtype", "nbytes", "most"), [("bfloat16", 2, FULL), ("float32", 4, FULL // 2)]
)
def test_a_wide_plane_is_cut_into_equal_pieces(dtype: str, nbytes: int, most: int) -> None:
    width = 2 * most + 1
    block = block_of((1, 2, width, 1, 1), dtype, random_bytes(2 * width * nbytes))
    piece = -(-width // 3)
    lengths = [piece, piece, width - 2 * piece] * 2
    data = encoded(block)
    assert data[:24].view("<u4").tolist() == lengths
    assert data.size == CODEC.bound(block.group, block.shape) == block.data.size + 24
    assert decoded(data, block.shape, dtype) == block.data.tobytes()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float8_e4m3fn", "float8_e5m2"])
def test_every_bit_pattern_comes_back(dtype: str) -> None:
    every = np.arange(1 << 16, dtype="<u2").view(np.uint8)
    block = block_of((2, 1, 2048, 1, 32 // DTYPE_BYTES[dtype]), dtype, every)
    assert decoded(encoded(block), block.shape, dtype) == every.tobytes()


@pytest.mark.parametrize("value", [0x00000001, 0x7FC00001, 0xFF800000, 0x80000000])
def test_float32_denormals_nan_and_infinity_come_back(value: int) -> None:
    block = block_of((2, 2, 64, 2, 8), "float32", np.full(4096, value, "<u4").view(np.uint8))
    assert decoded(encoded(block), block.shape, "float32") == block.data.tobytes()


@pytest.mark.parametrize(
    ("dtype", "ratio"), [("bfloat16", 0.71), ("float16", 0.89), ("float32", 0.86)]
)
def test_kv_like_numbers_shrink(dtype: str, ratio: float) -> None:
    block = kv_like((8, 2, 64, 4, 64), dtype, 7)
    assert encoded(block).size <= ratio * block.data.size


def hostile(coded: bytes, elements: int) -> bytes:
    """A segment of one 1-byte chunk with these coded bytes."""
    assert 0 < len(coded) < elements
    return len(coded).to_bytes(4, "little") + coded


@pytest.mark.parametrize("declares", [True, False])
def test_a_decompression_bomb_is_refused_before_memory_is_given(declares: bool) -> None:
    bomb = zstandard.ZstdCompressor(write_content_size=declares).compress(bytes(256 << 20))
    shape = (1, 1, FULL, 1, 1)
    block = block_of(shape, "float8_e5m2")
    array = np.frombuffer(hostile(bomb, FULL), np.uint8)
    frame = [Encoded(Segment(BASE, (0, 1), array.size), array)]
    CODEC.decode([[Encoded(frame[0].segment._replace(length=FULL + 4), _stored())]], [block])
    tracemalloc.start()
    try:
        with pytest.raises(CodecError):
            CODEC.decode([frame], [block])
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def _stored() -> Bytes:
    """A full chunk that is stored as it is."""
    length = np.array([FULL], "<u4").view(np.uint8)
    return np.concatenate([length, np.zeros(FULL, np.uint8)])


@pytest.mark.parametrize("size", [0, 999, 1001, 1 << 40])
def test_a_frame_that_declares_another_size_is_refused(size: int) -> None:
    coded = b"\x28\xb5\x2f\xfd\xe0" + size.to_bytes(8, "little") + bytes.fromhex("431f00 3f")
    with pytest.raises(CodecError, match="declare"):
        decoded(hostile(coded, 1000), (1, 1, 1000, 1, 1), "float8_e5m2")


def test_a_coded_chunk_cut_anywhere_is_refused() -> None:
    block = kv_like((1, 1, 40, 1, 64), "float8_e4m3fn", 3)
    data = encoded(block).tobytes()
    coded = data[4:]
    assert len(coded) < block.data.size
    for length in range(1, len(coded)):
        with pytest.raises(CodecError):
            decoded(hostile(coded[:length], block.data.size), block.shape, "float8_e4m3fn")


@pytest.mark.parametrize(
    "coded",
    [
        b"\x28\xb5\x2f\xfd\x60\xe8\x02\x43\x1f\x00",  # the block's one byte is missing
        b"\x28\xb5\x2f\xfd\x61\x07\xe8\x02\x43\x1f\x00\x3f",  # asks for dictionary 7
        b"\x50\x2a\x4d\x18\x01\x00\x00\x00\x00",  # a skippable frame
        b"\x28\xb5\x2f\xfe" + bytes(20),  # no magic number of zstd's
        b"\x28\xb5\x2f\xfd",
        b"\x28",
    ],
)
def test_what_is_no_frame_of_ours_is_refused(coded: bytes) -> None:
    with pytest.raises(CodecError):
        decoded(hostile(coded, 1000), (1, 1, 1000, 1, 1), "float8_e5m2")


@pytest.mark.parametrize(
    "lengths", [(0, 8), (5, 3), (4, 3), (4, 5), (2**32 - 1, 4), (2**31, 2**31)]
)
def test_lengths_that_do_not_add_up_are_refused(lengths: tuple[int, int]) -> None:
    table = np.array(lengths, "<u4").tobytes()
    with pytest.raises(CodecError):
        decoded(table + bytes(8 + 8), (1, 2, 4, 1, 1), "bfloat16")
    assert decoded(np.array([4, 4], "<u4").tobytes() + bytes(16), (1, 2, 4, 1, 1), "bfloat16")


@given(st.binary(min_size=1, max_size=900))
def test_any_coded_bytes_are_refused_or_decode_to_the_chunks_size(some: bytes) -> None:
    segment = hostile(b"\x28\xb5\x2f\xfd\x60\xe8\x02" + some, 1000)
    try:
        assert len(decoded(segment, (1, 1, 1000, 1, 1), "float8_e5m2")) == 1000
    except CodecError:
        return


def test_one_layer_is_decoded_without_its_neighbours_chunks() -> None:
    block = kv_like((4, 2, FULL // 64, 1, 64), "bfloat16", 5)
    data = encoded(block)
    lengths = data[:32].view("<u4").tolist()
    start = 32 + sum(lengths[:2]) + 2 * FULL
    data[32:start] = 0  # the first layer's chunks are gone
    frame = [Encoded(Segment(BASE, (0, 4), data.size), data)]
    restored = block_of(block.shape, "bfloat16")
    CODEC.decode([frame], [restored], layers=(1, 3))
    step = block.data.size // 4
    assert np.array_equal(restored.data[step : 3 * step], block.data[step : 3 * step])
    with pytest.raises(CodecError):
        CODEC.decode([frame], [restored], layers=(0, 1))
