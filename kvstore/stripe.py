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
from .lock import Turns
from .slab import PAGE_BYTES, SLOT_BYTES, Extent, Slab, slots_for
from .superblock import Superblock
from .transfers import Payload, adjoining, near, placed, runs

_SCAN_SLOTS = 256
_ZERO_BYTES = 8 << 20


class Stripe:
    """The slab in one directory."""

    def __init__(
        self,
        directory: Path,
        nbytes: int,
        *,
        store: bytes,
        open_file: OpenFile,
        breaker: Breaker,
        writers: int,
    ) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.directory = directory
        self.breaker = breaker
        self.turns = Turns(threading.Semaphore(writers))  # of those who write blocks
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

    def write(self, payloads: Sequence[Payload]) -> None:
        """Write payloads, those in neighbouring pages at once."""
        for _, payload in adjoining(payloads):
            for offset, data in placed(payload):
                self._pages.write(offset, data)

    def write_headers(self, headers: Mapping[int, bytes]) -> None:
        """Write header slots by number, those of neighbours at once."""
        for slots in runs(sorted(headers), _SCAN_SLOTS):
            buffer = self._buffer(len(slots))
            buffer[:] = 0
            for position, slot in enumerate(slots):
                start = position * SLOT_BYTES
                data = np.frombuffer(headers[slot], np.uint8)
                buffer[start : start + data.nbytes] = data
            self._headers.write((slots.start + 1) * SLOT_BYTES, [buffer])

    def read_headers(self, slots: Sequence[int]) -> dict[int, bytes]:
        """Read header slots, those that lie near each other at once."""
        found = {}
        for some in near(sorted(slots)):
            buffer = self._buffer(some[-1] + 1 - some[0])
            self._headers.read((some[0] + 1) * SLOT_BYTES, [buffer])
            for slot in some:
                start = (slot - some[0]) * SLOT_BYTES
                found[slot] = buffer[start : start + SLOT_BYTES].tobytes()
        return found

    def read(self, extents: Sequence[Extent], into: Sequence[Bytes]) -> None:
        """Read payload from the first byte of ``extents`` on into aligned arrays."""
        for offset, data in placed(Payload(extents, into)):
            self._pages.read(offset, data)

    def arrivals(self, payloads: Sequence[Payload]) -> Iterator[list[int]]:
        """Read payloads, those in neighbouring pages at once; their numbers as they come."""
        for numbers, (extents, into) in adjoining(payloads):
            self.read(extents, into)
            yield numbers

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
        scratch = self._buffer(1)
        self._headers.read(0, [scratch])
        return Superblock.parse(scratch.tobytes())

    def _write_superblock(self) -> None:
        scratch = self._buffer(1)
        scratch[:] = np.frombuffer(self.superblock.encode(), np.uint8)
        self._headers.write(0, [scratch])

    def _buffer(self, slots: int) -> Bytes:
        """Memory of this thread's for so many header slots."""
        buffer: Bytes | None = getattr(self._scratch, "buffer", None)
        if buffer is None or buffer.nbytes < slots * SLOT_BYTES:
            buffer = self._scratch.buffer = aligned(slots * SLOT_BYTES)
        return buffer[: slots * SLOT_BYTES]
