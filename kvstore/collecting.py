"""Every stored block of one identity, or of some of its prompts, read and verified as it lies.

For whoever carries blocks elsewhere (bundles).  Blocks come depth first: each one's parent came
before it and is the block before it or one on the way there, so that a reader needs to remember
one prompt's path and no more.  A block comes whole, with all parts of its layout, or not at all.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from .errors import FrameError, TierError
from .files import aligned
from .identity import Identity
from .index import ABSENT, DISK, HOST, NONE
from .keys import KeyKind
from .payload import Sealed, cut, seal, sectors
from .residency import Residency
from .tier import Place

Frames = tuple[Sealed, ...]
"""A block's frames, one for each part of the layout; the payload is as long as the header says."""


class Collection:
    """The blocks that were stored when it was made.

    ``chains`` are the prompts' keys, None for everything.  ``len`` counts blocks; iterating reads
    them, under a lease each, and leaves out what has gone or was damaged, with what hangs from it.
    Any thread may iterate.
    """

    def __init__(
        self,
        residency: Residency,
        identity: Identity,
        chains: Iterable[Sequence[bytes]] | None = None,
    ) -> None:
        self._residency = residency
        self._root = identity.root
        self._parts = identity.layout.parts
        if chains is None:
            self._keys = self._ordered(self._roots(), None)
        else:
            chains = [chain for chain in chains if chain]
            wanted = {key for chain in chains for key in chain}
            self._keys = self._ordered(dict.fromkeys(chain[0] for chain in chains), wanted)

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[Frames]:
        path: list[bytes] = []
        for key in self._keys:
            frames = self._block(key)
            if frames is None:
                continue
            parent = frames[0].header.parent
            while path and path[-1] != parent:
                path.pop()
            if path or parent == self._root:
                path.append(key)
                yield frames

    def _ordered(self, roots: Iterable[bytes], wanted: set[bytes] | None) -> list[bytes]:
        """Keys of whole blocks, depth first.  Locks for one block at a time."""
        found, todo = [], list(roots)
        while todo:
            key = todo.pop()
            with self._residency.lock:
                rows = self._residency.index.find_all([key + bytes(part) for part in self._parts])
                if NONE in rows:
                    continue
                index = self._residency.index
                children = [index.fid[child][:-2] for child in index.children(rows[0])]
            found.append(key)
            todo += [child for child in children if wanted is None or child in wanted]
        return found

    def _roots(self) -> list[bytes]:
        """Keys of the first blocks of this identity's prompts; one header is read for each."""
        residency, index = self._residency, self._residency.index
        suffix = bytes(self._parts[0])
        with residency.lock:
            rows = [row for row in index.roots() if index.fid[row][-2:] == suffix]
            sources = [residency.header_source(row) for row in rows]
        headers = (residency.read_header(source) for source in sources if source is not None)
        return [
            each.key
            for each in headers
            if each is not None and each.parent == self._root and each.kind == KeyKind.BLOCK
        ]

    def _block(self, key: bytes) -> Frames | None:
        frames = []
        for part in self._parts:
            frame = self._frame(key + bytes(part))
            if frame is None:
                return None
            frames.append(frame)
        return tuple(frames)

    def _frame(self, fid: bytes) -> Sealed | None:
        residency, index = self._residency, self._residency.index
        with residency.lock:
            row = index.find(fid)
            if row == NONE or not residency.is_resident(row):
                return None
            generation, slot = index.generation[row], index.place[HOST][row]
            nbytes, place = index.nbytes[DISK][row], residency.disk_place(row)
            is_on_disk = place.slot != ABSENT and residency.disk.is_up(place.stripe)
            if is_on_disk:
                residency.disk.lease(place)
            else:
                residency.host.slab.lease(slot)
        try:
            return (
                self._from_disk(place, fid, generation, nbytes) if is_on_disk else self._copy(slot)
            )
        except TierError as error:
            residency.disk.stripes[place.stripe].breaker.failure(str(error))
        except FrameError as error:
            residency.quarantine(row, generation, str(error))
        finally:
            with residency.lock:
                if is_on_disk:
                    residency.release_disk(row, place)
                else:
                    residency.release(row, slot)
        return None

    def _from_disk(self, place: Place, fid: bytes, generation: int, nbytes: int) -> Sealed:
        buffer = aligned(sectors(nbytes))
        header = self._residency.disk.read(place, fid, generation, [buffer])
        return Sealed(header, [buffer[: header.payload_bytes]])

    def _copy(self, slot: int) -> Sealed:
        host = self._residency.host
        header = self._residency.leased_header(slot)
        pieces = host.pieces(slot, header.payload_bytes)
        copied = [np.concatenate(cut(pieces, 0, header.payload_bytes))]
        return Sealed(seal(header, copied), copied)
