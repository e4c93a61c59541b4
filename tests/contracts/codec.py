"""What every codec keeps to.  An implementation adds two lines:

    class TestMine(CodecContract):
        codec = Mine()

A lossy one overrides ``assert_restored`` with the error bound that it states.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvstrata.compression.codec import ATTACHMENT, BASE, Block, Bytes, Codec, Encoded, Segment
from kvstrata.kvstore.errors import ArgumentError, CodecError
from kvstrata.kvstore.layout import DTYPE_BYTES, EXACT, Group

Shape = tuple[int, int, int, int, int]
Frame = list[Encoded]

GUARD = 64  # bytes behind a buffer that must stay as they are

inherited = settings(suppress_health_check=[HealthCheck.differing_executors])


def group_of(shape: Shape, dtype: str) -> Group:
    """A group that a block of this shape belongs to."""
    layers, planes, _, heads, dim = shape
    return Group(tuple(range(layers)), heads, dim, dtype, planes=planes)


def block_of(shape: Shape, dtype: str, data: bytes | Bytes | None = None) -> Block:
    """A block of these bytes, of zeros where none are given."""
    nbytes = int(np.prod(shape)) * DTYPE_BYTES[dtype]
    if data is None:
        data = bytes(nbytes)
    return Block(group_of(shape, dtype), shape, np.frombuffer(data, np.uint8).copy())


def kv_like(shape: Shape, dtype: str, seed: int) -> Block:
    """A block of normally distributed numbers, whose scale differs from channel to channel."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(shape) * np.exp(rng.standard_normal(shape[-1]))
    if DTYPE_BYTES[dtype] == 1:
        return block_of(
            shape, dtype, np.rint(values * 8).astype(np.int8).view(np.uint8).reshape(-1)
        )
    if dtype == "bfloat16":
        top = values.astype("<f4").view("<u2").reshape(*shape, 2)[..., 1]
        return block_of(shape, dtype, np.ascontiguousarray(top).reshape(-1).view(np.uint8))
    kind = "<f2" if dtype == "float16" else "<f4"
    return block_of(shape, dtype, values.astype(kind).reshape(-1).view(np.uint8))


shapes = st.tuples(
    st.integers(1, 5), st.integers(1, 2), st.integers(1, 9), st.integers(1, 3), st.integers(1, 8)
)
kv_blocks = st.builds(kv_like, shapes, st.sampled_from(list(DTYPE_BYTES)), st.integers(0, 2**32))


@st.composite
def odd_blocks(draw: st.DrawFn) -> Block:
    """Blocks of any bits at all: NaN, infinity, denormal numbers, long runs of one value."""
    shape = draw(shapes)
    dtype = draw(st.sampled_from(list(DTYPE_BYTES)))
    nbytes = int(np.prod(shape)) * DTYPE_BYTES[dtype]
    piece = draw(st.binary(min_size=1, max_size=nbytes))
    return block_of(shape, dtype, (piece * nbytes)[:nbytes])


blocks = st.one_of(kv_blocks, odd_blocks())


class CodecContract:
    """Inherit, and give ``codec``."""

    codec: ClassVar[Codec]

    def assert_restored(self, original: Block, restored: Block) -> None:
        """What a reader gets is what was written: here, every bit of it."""
        assert original.data.tobytes() == restored.data.tobytes()

    def encode(self, *originals: Block) -> list[Frame]:
        """Frames as a store would read them back, for the segments that it was told to write."""
        bounds = [self.codec.bound(block.group, block.shape) for block in originals]
        buffers = [np.full(bound + GUARD, 0xA5, np.uint8) for bound in bounds]
        encoded = self.codec.encode(originals, [buffer[:-GUARD] for buffer in buffers])
        assert all(np.all(buffer[-GUARD:] == 0xA5) for buffer in buffers)
        return [cut(buffer, segments) for buffer, segments in zip(buffers, encoded, strict=True)]

    def decode(self, frame: Sequence[Encoded], like: Block) -> Block:
        """A new block with what the frame decodes to."""
        restored = block_of(like.shape, like.group.dtype)
        self.codec.decode([frame], [restored])
        return restored

    @inherited
    @given(blocks)
    def test_what_is_decoded_is_what_was_encoded(self, block: Block) -> None:
        before = block.data.tobytes()
        [frame] = self.encode(block)
        assert block.data.tobytes() == before
        self.assert_restored(block, self.decode(frame, block))

    @inherited
    @given(blocks)
    def test_segments_cover_all_layers_within_the_bound(self, block: Block) -> None:
        [frame] = self.encode(block)
        segments = [encoded.segment for encoded in frame]
        assert sum(s.length for s in segments) <= self.codec.bound(block.group, block.shape)
        assert {s.kind for s in segments} >= {BASE}
        base = sorted(s.layers for s in segments if s.kind == BASE)
        assert base[0][0] == 0
        assert base[-1][1] == block.shape[0]
        assert all(s.length > 0 and 0 <= s.fidelity <= EXACT for s in segments)

    @inherited
    @given(blocks, st.data())
    def test_some_layers_decode_alone_and_leave_the_others(
        self, block: Block, data: st.DataObject
    ) -> None:
        first = data.draw(st.integers(0, block.shape[0]))
        end = data.draw(st.integers(first, block.shape[0]))
        [frame] = self.encode(block)
        whole = self.decode(frame, block)
        restored = block_of(
            block.shape, block.group.dtype, np.full(block.data.size, 0x5A, np.uint8)
        )
        self.codec.decode([frame], [restored], layers=(first, end))
        step = block.data.size // block.shape[0]
        inside = slice(first * step, end * step)
        assert np.array_equal(restored.data[inside], whole.data[inside])
        restored.data[inside] = 0x5A
        assert np.all(restored.data == 0x5A)

    @inherited
    @given(st.lists(blocks, max_size=4))
    def test_a_batch_is_the_same_as_one_block_at_a_time(self, batch: list[Block]) -> None:
        together = self.encode(*batch)
        for block, frame in zip(batch, together, strict=True):
            [alone] = self.encode(block)
            assert [e.segment for e in alone] == [e.segment for e in frame]
            assert [e.data.tobytes() for e in alone] == [e.data.tobytes() for e in frame]
        restored = [block_of(block.shape, block.group.dtype) for block in batch]
        self.codec.decode(together, restored)
        for block, result in zip(batch, restored, strict=True):
            self.assert_restored(block, result)

    def test_attachments_are_passed_over(self) -> None:
        block = kv_like((2, 2, 4, 1, 4), "bfloat16", 1)
        [frame] = self.encode(block)
        scores = Encoded(Segment(ATTACHMENT, (0, 2), 3), np.zeros(3, np.uint8))
        self.assert_restored(block, self.decode([*frame, scores], block))

    def test_a_buffer_below_the_bound_is_refused(self) -> None:
        block = kv_like((2, 2, 4, 1, 4), "bfloat16", 1)
        small = np.zeros(self.codec.bound(block.group, block.shape) - 1, np.uint8)
        with pytest.raises(ArgumentError):
            self.codec.encode([block], [small])

    @pytest.mark.parametrize("layers", [(-1, 1), (0, 4), (2, 1)])
    def test_layers_that_a_block_does_not_have_are_refused(self, layers: tuple[int, int]) -> None:
        block = kv_like((3, 2, 4, 1, 4), "bfloat16", 1)
        [frame] = self.encode(block)
        with pytest.raises(ArgumentError):
            self.codec.decode([frame], [block], layers=layers)

    def test_a_frame_without_a_base_is_refused(self) -> None:
        block = kv_like((2, 2, 4, 1, 4), "bfloat16", 1)
        [frame] = self.encode(block)
        for hostile in ([], [*frame, *frame], [e for e in frame if e.segment.kind != BASE]):
            with pytest.raises(CodecError):
                self.decode(hostile, block)

    @inherited
    @given(blocks, st.data())
    def test_a_segment_of_the_wrong_length_is_refused(
        self, block: Block, data: st.DataObject
    ) -> None:
        [frame] = self.encode(block)
        which = data.draw(st.integers(0, len(frame) - 1))
        good = frame[which]
        length = data.draw(st.integers(0, good.data.size + 9).filter(lambda n: n != good.data.size))
        wrong = np.resize(good.data, length)
        for claimed in {length, good.data.size}:
            frame[which] = Encoded(good.segment._replace(length=claimed), wrong)
            with pytest.raises(CodecError):
                self.decode(frame, block)

    @inherited
    @given(blocks, blocks)
    def test_a_segment_of_another_shape_is_refused_or_decodes_within_bounds(
        self, block: Block, other: Block
    ) -> None:
        [frame] = self.encode(other)
        self.decode_hostile(frame, block)

    @inherited
    @given(kv_blocks, st.data())
    def test_damaged_bytes_are_refused_or_decode_within_bounds(
        self, block: Block, data: st.DataObject
    ) -> None:
        [frame] = self.encode(block)
        which = data.draw(st.integers(0, len(frame) - 1))
        segment, good = frame[which]
        damaged = good.copy()
        for _ in range(data.draw(st.integers(1, 8))):
            damaged[data.draw(st.integers(0, good.size - 1))] = data.draw(st.integers(0, 255))
        frame[which] = Encoded(segment, damaged)
        self.decode_hostile(frame, block)

    @inherited
    @given(kv_blocks, st.binary(max_size=600))
    def test_any_bytes_are_refused_or_decode_within_bounds(self, block: Block, some: bytes) -> None:
        segment = Segment(BASE, (0, block.shape[0]), len(some))
        self.decode_hostile([Encoded(segment, np.frombuffer(some, np.uint8))], block)

    def decode_hostile(self, frame: Sequence[Encoded], like: Block) -> None:
        """Decode into memory with a guard behind it; nothing but ``CodecError`` may come out."""
        memory = np.full(like.data.size + GUARD, 0xA5, np.uint8)
        with suppress(CodecError):
            self.codec.decode([frame], [Block(like.group, like.shape, memory[:-GUARD])])
        assert np.all(memory[-GUARD:] == 0xA5)

    def test_threads_share_one_codec(self) -> None:
        originals = [kv_like((4, 2, 64, 2, 64), "bfloat16", seed) for seed in range(16)]
        expected = self.encode(*originals)

        def there_and_back(number: int) -> None:
            block = originals[number % 16]
            [frame] = self.encode(block)
            assert frame[0].data.tobytes() == expected[number % 16][0].data.tobytes()
            self.assert_restored(block, self.decode(frame, block))

        with ThreadPoolExecutor(8) as pool:
            for done in pool.map(there_and_back, range(64)):
                assert done is None

    def test_the_number_fits_the_segment_table(self) -> None:
        assert 0 <= self.codec.number < 1 << 16
        assert self.codec.name == self.codec.name.lower().strip()


def cut(buffer: Bytes, segments: Sequence[Segment]) -> Frame:
    """A buffer's segments, each with its own bytes."""
    frame, start = [], 0
    for segment in segments:
        frame.append(Encoded(segment, buffer[start : start + segment.length].copy()))
        start += segment.length
    return frame
