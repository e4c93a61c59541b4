"""One segment of a frame on disk is read and verified without the others."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from kvstrata.kvstore.errors import FrameError
from kvstrata.kvstore.files import Bytes, DirectFile
from kvstrata.kvstore.identity import Identity
from kvstrata.kvstore.index import DISK
from kvstrata.kvstore.layout import Group, Layout, Part
from kvstrata.kvstore.pages import ArrayPages
from kvstrata.kvstore.settings import Settings
from kvstrata.kvstore.store import Store

MIB = 1 << 20
LAYOUT = Layout((Group((0, 1), heads=4, head_dim=64, dtype="float32"),), block_tokens=128)
IDENTITY = Identity(weights="ab" * 32, layout=LAYOUT, config="config")
TOKENS = list(range(128))
SCORES = np.arange(3000, dtype=np.uint32).view(np.uint8)
ATTACHMENT = 2  # behind the meta segment and the base


class CountingFile(DirectFile):
    """Counts the bytes that are read from the pages."""

    read_bytes = 0

    def read(self, offset: int, into: Sequence[Bytes]) -> None:
        """Read, and count what was asked for."""
        if self.path.name == "pages.kvs":
            CountingFile.read_bytes += sum(array.nbytes for array in into)
        super().read(offset, into)


def saved(directory: Path) -> Store:
    store = Store(Settings(dir=directory, memory=8 * MIB, disk=16 * MIB), open_file=CountingFile)
    data = np.random.default_rng(0).integers(0, 256, (1, LAYOUT.frame_bytes(0, 128)), np.uint8)
    pages = ArrayPages(LAYOUT, {Part(0, 0): data})
    store.space(IDENTITY).save(TOKENS, pages, attachments={"scores": [SCORES]})
    assert store.flush()
    return store


def segment(store: Store, number: int) -> Bytes:
    residency = store.space(IDENTITY)._residency
    with residency.lock:
        (row,) = residency.index.rows().tolist()
        place, fid = residency.disk_place(row), residency.index.fid[row]
        generation, nbytes = residency.index.generation[row], residency.index.nbytes[DISK][row]
    assert nbytes > LAYOUT.frame_bytes(0, 128)
    return residency.disk.read_segment(place, fid, generation, number)


def test_an_attachment_is_read_without_the_base(tmp_path: Path) -> None:
    with saved(tmp_path / "store") as store:
        CountingFile.read_bytes = 0
        assert segment(store, ATTACHMENT).tobytes() == SCORES.tobytes()
        assert CountingFile.read_bytes <= SCORES.nbytes + 2 * 4096


def test_a_damaged_base_does_not_spoil_the_attachment(tmp_path: Path) -> None:
    with saved(tmp_path / "store") as store:
        pages = tmp_path / "store" / "pages.kvs"
        base = segment(store, 1).tobytes()
        at = pages.read_bytes().index(base[:4096])
        with pages.open("r+b") as file:
            file.seek(at + 100)
            file.write(b"\xff\x00\xff\x00" if base[100:104] != b"\xff\x00\xff\x00" else b"\x00")
        assert segment(store, ATTACHMENT).tobytes() == SCORES.tobytes()
        with pytest.raises(FrameError, match="checksum"):
            segment(store, 1)
