"""Slab files read and damaged by hand, from docs/format.md alone."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from kvstrata.kvstore.layout import Part

SLOT = 4096
PAGE = 16384
_FIRST = Part(0, 0)


class Frame(NamedTuple):
    """A frame as it lies in a stripe's directory."""

    directory: Path
    slot: int
    key: bytes
    part: Part
    generation: int
    payload: int  # bytes
    extents: tuple[tuple[int, int], ...]

    @property
    def header_at(self) -> int:
        """Where the header begins in headers.kvs."""
        return SLOT * (self.slot + 1)

    def payload_at(self, offset: int) -> int:
        """Where a byte of the payload lies in pages.kvs."""
        for page, count in self.extents:
            if offset < count * PAGE:
                return page * PAGE + offset
            offset -= count * PAGE
        raise AssertionError("no such byte in the payload")


def frames(directory: Path) -> Iterator[Frame]:
    """Every slot that holds a header's magic, in order."""
    data = (directory / "headers.kvs").read_bytes()
    for slot in range(len(data) // SLOT - 1):
        header = data[SLOT * (slot + 1) : SLOT * (slot + 2)]
        if header[:8] == b"KVSTRATA":
            yield _frame(directory, slot, header)


def find(directory: Path, key: bytes, part: Part = _FIRST) -> Frame:
    """The newest frame of a key and part."""
    found = [each for each in frames(directory) if (each.key, each.part) == (key, part)]
    assert found, "no such frame on disk"
    return max(found, key=lambda each: each.generation)


def flip(path: Path, at: int, *, mask: int = 0x10) -> None:
    """Flip bits of one byte of a file."""
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ mask]))
        file.flush()
        os.fsync(file.fileno())


def damage(frame: Frame, *, at: int = 1000) -> None:
    """Flip a bit of a frame's payload."""
    flip(frame.directory / "pages.kvs", frame.payload_at(at))


def _frame(directory: Path, slot: int, header: bytes) -> Frame:
    segments = int.from_bytes(header[176:178], "little")
    runs = int.from_bytes(header[178:180], "little")
    table = header[192 + 40 * segments :][: 8 * runs]
    numbers = [int.from_bytes(table[at : at + 4], "little") for at in range(0, len(table), 4)]
    return Frame(
        directory,
        slot,
        header[24:56],
        Part(header[120], header[121]),
        int.from_bytes(header[144:152], "little"),
        int.from_bytes(header[168:176], "little"),
        tuple(zip(numbers[::2], numbers[1::2], strict=True)),
    )
