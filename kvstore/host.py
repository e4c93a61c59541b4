"""The slab in host memory: where blocks are saved first and where every block is loaded from.

One memfd, ``[superblock | header slots | pages]`` (docs/format.md), sealed against resizing.  It is
usable at once and touched in the background from the first page on, because a page that is first
touched by a copy costs ten times the copy.  The header slots make it self-describing: a process
that is handed the descriptor of a dead one finds the frames in it (``scan``).

Bookkeeping (``take``, ``give``, leases) belongs to the store's lock; copying and headers do not.
"""

import ctypes
import mmap
import os
import sys
import threading
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from .errors import ArgumentError
from .payload import cut
from .slab import PAGE_BYTES, SLOT_BYTES, Extent, Slab, pages_for, slots_for
from .superblock import Superblock

Bytes = NDArray[np.uint8]

_POPULATE_WRITE = 23  # MADV_POPULATE_WRITE, Linux 5.14; the mmap module has no name for it
_TOUCH_BYTES = 8 << 20
_WIPED = bytes(8)


class HostTier:
    """Frames in host memory.

    ``fd`` adopts the memfd of an earlier process; its geometry comes from its superblock.
    """

    def __init__(self, nbytes: int, *, fd: int | None = None) -> None:
        adopted = fd is not None
        self.fd = _create(nbytes) if fd is None else fd
        size = os.fstat(self.fd).st_size if self.fd >= 0 else nbytes
        self._map = mmap.mmap(self.fd, size)
        self.memory: Bytes = np.frombuffer(self._map, np.uint8)
        self._bytes = memoryview(self._map)
        if adopted:
            self.superblock = Superblock.parse(self._bytes[:SLOT_BYTES])
        else:
            self.superblock = Superblock.new(slots_for(size), _pages(size))
            self._bytes[:SLOT_BYTES] = self.superblock.encode()
        self.slab = Slab(self.superblock.slots, self.superblock.pages)
        self._pages_at = _pages_offset(self.superblock.slots)
        if self._pages_at + self.slab.pages * PAGE_BYTES > size:
            raise ArgumentError("the descriptor is smaller than the slab that it claims to hold")
        self._closing = threading.Event()
        self._toucher = threading.Thread(target=self._touch, name="kvstrata-touch", daemon=True)
        self._toucher.start()

    def pieces(self, slot: int, nbytes: int) -> list[Bytes]:
        """Views of the first ``nbytes`` of a place, one for each run of pages."""
        return self.views(self.slab.extents(slot), nbytes)

    def views(self, extents: Sequence[Extent], nbytes: int) -> list[Bytes]:
        """Views of the first ``nbytes`` of runs of pages."""
        views = []
        for page, count in extents:
            start = self._pages_at + page * PAGE_BYTES
            views.append(self.memory[start : start + min(nbytes, count * PAGE_BYTES)])
            nbytes -= count * PAGE_BYTES
            if nbytes <= 0:
                break
        return views

    def span(self, slot: int, offset: int, length: int) -> list[Bytes]:
        """Views of so many bytes of a place from ``offset`` on, one for each run of pages."""
        if self.slab.is_scattered(slot):
            return cut(self.pieces(slot, offset + length), offset, length)
        start = self._pages_at + self.slab.first[slot] * PAGE_BYTES + offset
        return [self.memory[start : start + length]]

    def header(self, slot: int) -> memoryview:
        """The header slot of a place."""
        start = (slot + 1) * SLOT_BYTES
        return self._bytes[start : start + SLOT_BYTES]

    def write_header(self, slot: int, header: bytes | bytearray) -> None:
        """Publish a frame to whoever may inherit the slab."""
        start = (slot + 1) * SLOT_BYTES
        self._bytes[start : start + len(header)] = header

    def give(self, slot: int) -> None:
        """Take a place back; its header is wiped now, its pages are free with the last lease."""
        self.wipe(slot)
        self.slab.give(slot)

    def wipe(self, slot: int) -> None:
        """Let nobody who inherits the slab find a frame in the slot."""
        start = (slot + 1) * SLOT_BYTES
        self._bytes[start : start + len(_WIPED)] = _WIPED

    def scan(self) -> Iterator[tuple[int, memoryview]]:
        """Slots that hold something, with their headers."""
        for slot in range(self.slab.slots):
            header = self.header(slot)
            if header[:8] != _WIPED:
                yield slot, header

    def close(self) -> None:
        """Stop touching; the memory itself goes when the last view of it does."""
        self._closing.set()
        self._toucher.join()
        if self.fd >= 0:
            os.close(self.fd)

    def _touch(self) -> None:
        if sys.platform != "linux":
            return
        libc = ctypes.CDLL(None, use_errno=True)  # its calls let other threads run, mmap's do not
        libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        base = self.memory.ctypes.data
        for start in range(0, len(self.memory), _TOUCH_BYTES):
            if self._closing.is_set():
                return
            length = min(_TOUCH_BYTES, len(self.memory) - start)
            if libc.madvise(base + start, length, _POPULATE_WRITE):
                os.posix_fallocate(self.fd, start, length)


def _create(nbytes: int) -> int:
    if sys.platform != "linux":
        return -1  # anonymous memory: no other process can adopt it
    import fcntl

    fd = os.memfd_create("kvstrata", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.fchmod(fd, 0o600)
    os.ftruncate(fd, nbytes)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return fd


def _pages_offset(slots: int) -> int:
    return pages_for((slots + 1) * SLOT_BYTES) * PAGE_BYTES


def _pages(nbytes: int) -> int:
    return (nbytes - _pages_offset(slots_for(nbytes))) // PAGE_BYTES
