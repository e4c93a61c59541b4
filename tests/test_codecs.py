"""Every codec keeps the contract, and is found by its name and its number."""

from kvstrata.compression.codecs import CODECS, CODECS_BY_NUMBER
from kvstrata.compression.plane_huff import PlaneHuff
from kvstrata.compression.raw import Raw
from tests.contracts.codec import CodecContract, kv_like


class TestRaw(CodecContract):
    codec = Raw()

    def test_the_encoding_is_the_block_itself(self) -> None:
        block = kv_like((2, 2, 4, 1, 4), "float16", 1)
        [[encoded]] = self.encode(block)
        assert encoded.data.tobytes() == block.data.tobytes()
        assert self.codec.bound(block.group, block.shape) == block.data.size


class TestPlaneHuff(CodecContract):
    codec = PlaneHuff()


def test_names_and_numbers_are_what_frames_on_disk_say() -> None:
    assert {name: codec.number for name, codec in CODECS.items()} == {"raw": 0, "plane-huff": 1}


def test_a_codec_is_found_by_either() -> None:
    assert all(codec.name == name for name, codec in CODECS.items())
    assert list(CODECS_BY_NUMBER.values()) == list(CODECS.values())
    assert all(codec.number == number for number, codec in CODECS_BY_NUMBER.items())
