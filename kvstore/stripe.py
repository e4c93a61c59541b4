"""One directory's slab: header slots in ``headers.kvs``, pages in ``pages.kvs``.

Two files, so that a changed size moves nothing: either grows or shrinks at its end, and frames
that still fit are kept.  Payload is written before its header, the header before anybody is told;
whatever is read back is believed only when the header names the key and generation that the index
expects and the payload's checksum, seeded with the frame id, is right.

``slab`` (bookkeeping) belongs to the store's lock; reads and writes to any thread.
"""

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from .breaker import Breaker
from .errors import FrameError, TierError
from .files import Bytes, OpenFile, aligned
from .slab import PAGE_BYTES, SLOT_BYTES, Extent, Slab, slots_for
from .superblock import Superblock

_SCAN_SLOTS = 256
_ZERO_BYTES = 8 << 20


class Stripe:
    """The slab in one directory."""

    def __init__(
        self, directory: Path, nbytes: int, *, store: bytes, open_file: OpenFile, breaker: Breaker
    ) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.directory = directory
        self.breaker = breaker
        self._headers = open_file(directory / "headers.kvs")
        self._pages = open_file(directory / "pages.kvs")
        self._scratch = threading.local()
        slots = slots_for(nbytes)
        pages = (nbytes - (slots + 1) * SLOT_BYTES) // PAGE_BYTES
        self.is_new = (directory / "headers.kvs").stat().st_size == 0
        self.superblock = self._open_superblock(slots, pages, store)
        self._headers.resize((slots + 1) * SLOT_BYTES)
        self._pages.resize(pages * PAGE_BYTES)
        self._write_superblock()
        self.slab = Slab(slots, pages)
        if self.is_new:
            self.write_headers(dict.fromkeys(range(min(slots, _SCAN_SLOTS)), b""))

    def write(self, extents: Sequence[Extent], payload: Sequence[Bytes]) -> None:
        """Write payload, arrays of whole sectors, from the first byte of ``extents`` on."""
        for offset, data in _placed(extents, payload):
            self._pages.write(offset, data)

    def write_headers(self, headers: Mapping[int, bytes]) -> None:
        """Write header slots by number, those of neighbours at once."""
        for slots in _runs(sorted(headers)):
            buffer = aligned(len(slots) * SLOT_BYTES)
            for position, slot in enumerate(slots):
                start = position * SLOT_BYTES
                data = np.frombuffer(headers[slot], np.uint8)
                buffer[start : start + data.nbytes] = data
            self._headers.write((slots.start + 1) * SLOT_BYTES, [buffer])

    def read_header(self, slot: int) -> bytes:
        """Read a header slot."""
        scratch = self._slot_buffer()
        self._headers.read((slot + 1) * SLOT_BYTES, [scratch])
        return scratch.tobytes()

    def read(self, extents: Sequence[Extent], into: Sequence[Bytes]) -> None:
        """Read payload from the first byte of ``extents`` on into aligned arrays."""
        for offset, data in _placed(extents, into):
            self._pages.read(offset, data)

    def wipe(self, slots: Sequence[int]) -> None:
        """Overwrite headers, durably: what they named cannot come back."""
        self.write_headers(dict.fromkeys(slots, b""))
        self._headers.sync()

    def scan(self) -> Iterator[tuple[int, memoryview]]:
        """Header slots that hold something, in order."""
        buffer = aligned(_SCAN_SLOTS * SLOT_BYTES)
        for first in range(0, self.slab.slots, _SCAN_SLOTS):
            count = min(_SCAN_SLOTS, self.slab.slots - first)
            chunk = buffer[: count * SLOT_BYTES]
            self._headers.read((first + 1) * SLOT_BYTES, [chunk])
            for position in np.flatnonzero(chunk.reshape(count, SLOT_BYTES)[:, 0]).tolist():
                header = chunk[position * SLOT_BYTES : (position + 1) * SLOT_BYTES].tobytes()
                yield first + position, memoryview(header)

    def sync(self) -> None:
        """Return when all that was written is on the medium."""
        self._pages.sync()
        self._headers.sync()

    def probe(self) -> bool:
        """Whether the medium takes and gives back a superblock now."""
        try:
            self._write_superblock()
            self._headers.sync()
            return self._read_superblock() == self.superblock
        except (TierError, FrameError):
            return False

    def zero(self, slot: int) -> None:
        """Overwrite the pages of a place."""
        for extent in self.slab.extents(slot):
            self.zero_pages(extent)

    def zero_pages(self, extent: Extent) -> None:
        """Write zeros; a first write into fresh pages costs three times a second."""
        zeros = aligned(_ZERO_BYTES)
        start, end = extent[0] * PAGE_BYTES, sum(extent) * PAGE_BYTES
        for offset in range(start, end, _ZERO_BYTES):
            self._pages.write(offset, [zeros[: min(_ZERO_BYTES, end - offset)]])

    def forget_everything(self) -> None:
        """Take a new uuid, with which no header that is there verifies any more."""
        self.superblock = replace(self.superblock, slab=os.urandom(16))
        self._write_superblock()
        self._headers.sync()
        self.is_new = True

    def close(self) -> None:
        """Close the files."""
        self._pages.close()
        self._headers.close()

    def _open_superblock(self, slots: int, pages: int, store: bytes) -> Superblock:
        if self.is_new:
            return Superblock.new(slots, pages, store=store)
        try:
            old = self._read_superblock()
        except (FrameError, TierError):  # damaged: without its seed no header verifies any more
            return Superblock.new(slots, pages, store=store)
        return Superblock(slots, pages, old.slab, store, old.created)

    def _read_superblock(self) -> Superblock:
        scratch = self._slot_buffer()
        self._headers.read(0, [scratch])
        return Superblock.parse(scratch.tobytes())

    def _write_superblock(self) -> None:
        scratch = self._slot_buffer()
        scratch[:] = np.frombuffer(self.superblock.encode(), np.uint8)
        self._headers.write(0, [scratch])

    def _slot_buffer(self) -> Bytes:
        buffer: Bytes | None = getattr(self._scratch, "buffer", None)
        if buffer is None:
            buffer = self._scratch.buffer = aligned(SLOT_BYTES)
        return buffer


def _placed(extents: Sequence[Extent], data: Sequence[Bytes]) -> Iterator[tuple[int, list[Bytes]]]:
    """Cut ``data``, arrays end to end, along ``extents``: file offset and arrays of each."""
    todo = list(reversed(data))
    for page, count in extents:
        room, part = count * PAGE_BYTES, []
        while room and todo:
            piece = todo.pop()
            if piece.nbytes > room:
                todo.append(piece[room:])
                piece = piece[:room]
            part.append(piece)
            room -= piece.nbytes
        if part:
            yield page * PAGE_BYTES, part


def _runs(slots: Sequence[int]) -> Iterator[range]:
    """Ascending numbers as ranges without gaps, none longer than what is scanned at once."""
    start = end = None
    for slot in slots:
        if start is None or slot != end or slot - start == _SCAN_SLOTS:
            if start is not None and end is not None:
                yield range(start, end)
            start = slot
        end = slot + 1
    if start is not None and end is not None:
        yield range(start, end)
