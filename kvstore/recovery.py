"""What an earlier life of the store left: found again by its index, or by its headers.

The catalog is believed for a stripe whose slab it knows; a swapped or unindexed slab is read header
by header.  Either way a frame counts only if its pages are its own (of two that claim a page the
newer one stays), no tombstone covers it, and its chain reaches its root.  Payload is verified when
it is first read.

Everything is decided for all frames at once, in columns (``found.py``).
"""

import ctypes
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from .chains import Numbers, by_recency, reaching
from .disk import RECORD_PREFIX, DiskTier
from .errors import FrameError, TierError
from .files import aligned
from .found import Found
from .frame import Header, parse, verify_key
from .host import HostTier
from .index import DISK, NONE
from .keys import frame_id
from .payload import is_plain, meta_of, sectors, verify_payload
from .records import Batch, Ground, Reader
from .residency import Residency
from .slab import Slab
from .stripe import Stripe
from .tier import Place

_log = logging.getLogger("kvstrata")

Living = Callable[[Found], NDArray[np.bool_]]
"""Which frames no tombstone covers."""

_BATCH = 8192
_LENGTH = slice(20, 24)  # of a header: its own length

_Contents = dict[int, bytes]
"""By slot: the catalog's record of the frame, empty for what is none of ours."""


def recover(residency: Residency, disk: DiskTier, living: Living) -> int:
    """Fill index, slabs and policy from what is on disk; how many frames were found again."""
    if not disk.stripes:
        return 0
    facts = disk.catalog.facts()
    found, unindexed = _read(disk, facts)
    opens = int.from_bytes(facts.get(b"opens", b""), "little") + 1
    newest = int(found.table["generation"].max(initial=0))
    with residency.lock:
        if opens > 1 or unindexed:
            residency.ghosts.horizon = residency.clock()
        # above whatever lies in a slot unseen: no generation is given twice
        residency.generation = max(opens << 32, newest, residency.generation)
        numbers = _standing(found, living, is_unique=not unindexed)
        numbers = numbers[_claim(disk, found.take(numbers))]
        kept, parents = _connected(disk, found.take(numbers))
        _enter(residency, kept, parents)
        _forget_others(residency, found, kept)
    indexed = [n for n in range(len(disk.stripes)) if n not in unindexed]
    for number, contents in unindexed.items():
        if _index(disk, number, contents, kept):
            indexed.append(number)
    disk.catalog.commit()  # first: a stripe counts as indexed from here on
    disk.catalog.sync()
    disk.catalog.state(
        {_fact(n): disk.stripes[n].superblock.slab for n in indexed}
        | {b"opens": opens.to_bytes(8, "little"), b"store": disk.stripes[0].superblock.store}
    )
    disk.catalog.believe()
    count = len(kept)
    del found, kept
    _give_back_memory()
    return count


def adopt(residency: Residency, living: Living) -> int:
    """Enter the frames of a dead process's host slab; how many verify, payload and all.

    Called after ``recover``; a frame that is on disk too is one block in two places.
    """
    host, headers = residency.host, dict[int, Header]()
    slab = host.slab
    reader = Reader(slab.slots)
    ground = Ground(slab.slots, slab.pages, host.superblock.seed)
    reader.read(_batches(_in_host(host, headers)), {0: ground})
    found, count = reader.found(), 0
    with residency.lock:
        newest = int(found.table["generation"].max(initial=0))
        residency.generation = max(residency.generation, newest)
        found = found.take(_standing(found, living, is_unique=False))
        found = found.take(np.flatnonzero(_claim_in(slab, found)))
        for number in np.argsort(found.table["position"], kind="stable").tolist():
            slot = int(found.table["slot"][number])
            count += _enter_host(residency, headers[slot], slot, found.tags_of(number))
        for slot in headers:
            if not slab.is_taken(slot):
                host.wipe(slot)
    return count


def _read(disk: DiskTier, facts: Mapping[bytes, bytes]) -> tuple[Found, dict[int, _Contents]]:
    """All that can be believed, and what lies in the stripes that the catalog does not know."""
    stripes = dict(enumerate(disk.stripes))
    unindexed: dict[int, _Contents] = {
        n: {}
        for n, stripe in stripes.items()
        if facts.get(_fact(n)) != stripe.superblock.slab and not stripe.is_new
    }
    slots = sum(stripe.slab.slots for stripe in disk.stripes)
    reader = Reader(slots)
    try:
        indexed = {n: _ground(stripe) for n, stripe in stripes.items() if n not in unindexed}
        reader.read(disk.catalog.scan(), indexed)
    except TierError as error:
        _log.warning("%s; it is made anew from the slabs' headers", error)
        disk.catalog.renew()
        reader = Reader(slots)
        unindexed = {n: {} for n, stripe in stripes.items() if not stripe.is_new}
    for fid in reader.strangers:
        disk.forget(fid)
    for number, contents in unindexed.items():
        stripe = stripes[number]
        _log.warning("%s has no index: its headers are read", stripe.directory)
        headers = _in_slots(number, stripe, contents)
        try:
            reader.read(_batches(headers), {number: _ground(stripe)})
        except TierError as error:
            stripe.breaker.failure(str(error))
    return reader.found(), unindexed


def _in_slots(number: int, stripe: Stripe, contents: _Contents) -> Iterator[tuple[bytes, bytes]]:
    """Frame ids and records of the frames whose headers verify; fills ``contents``."""
    for slot, raw in stripe.scan():
        contents[slot] = b""
        try:
            header = parse(raw, pages=stripe.slab.pages, slab=stripe.superblock.seed)
            if not header.has_checksums:
                raise FrameError("a payload without checksums never left its process")
            contents[slot] = _record(Place(number, slot), raw, _tags(stripe, header))
            yield header.frame_id, contents[slot]
        except FrameError as error:
            _log.debug("slot %d of %s: %s", slot, stripe.directory, error)


def _in_host(host: HostTier, headers: dict[int, Header]) -> Iterator[tuple[bytes, bytes]]:
    """The same for the frames in host memory whose payload verifies; fills ``headers``."""
    for slot, raw in host.scan():
        try:
            header = parse(raw, pages=host.slab.pages, slab=host.superblock.seed)
            pieces = host.views(header.extents, header.payload_bytes)
            verify_payload(header, pieces)
            record = _record(Place(0, slot), raw, meta_of(header, pieces).tags)
        except FrameError as error:
            _log.debug("slot %d of the adopted slab: %s", slot, error)
            host.wipe(slot)
            continue
        headers[slot] = header
        yield header.frame_id, record


def _record(place: Place, header: memoryview, tags: Sequence[str]) -> bytes:
    """The catalog's record of a frame whose header slot reads so."""
    bare = bytes(header[: int.from_bytes(header[_LENGTH], "little")])
    return RECORD_PREFIX.pack(place.slot, place.stripe) + bare + "\0".join(tags).encode()


def _tags(stripe: Stripe, header: Header) -> tuple[str, ...]:
    """The tags of a frame whose key its meta segment, inline or not, gives."""
    first = header.segments[0]
    if first.is_inline:
        return verify_key(header).tags
    meta = aligned(sectors(first.length))
    stripe.read(header.extents, [meta])
    return verify_key(header, meta[: first.length].tobytes()).tags


def _batches(records: Iterator[tuple[bytes, bytes]]) -> Iterator[Batch]:
    while some := list(islice(records, _BATCH)):
        yield [fid for fid, _ in some], [record for _, record in some]


def _standing(found: Found, living: Living, *, is_unique: bool) -> NDArray[np.intp]:
    """Numbers of the frames that no tombstone covers, and of those the newest of each id."""
    numbers = np.flatnonzero(living(found))
    return numbers if is_unique else numbers[found.take(numbers).newest()]


def _claim(disk: DiskTier, found: Found) -> NDArray[np.bool_]:
    """Which frames have slot and pages to themselves, or are the newest there; takes them."""
    is_own = np.zeros(len(found), np.bool_)
    for number, stripe in enumerate(disk.stripes):
        here = np.flatnonzero(found.table["stripe"] == number)
        is_own[here] = _claim_in(stripe.slab, found.take(here))
    return is_own


def _claim_in(slab: Slab, found: Found) -> NDArray[np.bool_]:
    return slab.restore(
        found.table["slot"],
        extents=found.extents,
        ends=found.ends,
        generations=found.table["generation"],
    )


def _connected(disk: DiskTier, found: Found) -> tuple[Found, Numbers]:
    """The frames whose chains reach their roots, and their parents; others give places back."""
    parents = found.parents()
    reached = reaching(parents, found.table["is_first"])
    if reached.all():
        return found, parents
    for number in np.flatnonzero(~reached).tolist():
        row = found.table[number]
        disk.give(Place(int(row["stripe"]), int(row["slot"])))
    kept = found.take(np.flatnonzero(reached))
    return kept, kept.parents()


def _enter(residency: Residency, kept: Found, parents: Numbers) -> None:
    """Rows 0 .. n for the frames, with all that hangs from a row."""
    index, table = residency.index, kept.table
    index.fill(kept.fids, parents)
    columns = {
        "tokens": index.tokens, "generation": index.generation, "expiry": index.expiry,
        "fidelity": index.fidelity, "slot": index.place[DISK], "stripe": index.stripe,
        "nbytes": index.nbytes[DISK],
    }  # fmt: skip
    for name, column in columns.items():
        np.asarray(column)[: len(kept)] = table[name]
    tenants = np.array([residency.tenant_number(owner[16:]) for owner in kept.owners])
    np.asarray(index.tenant)[: len(kept)] = tenants.take(table["owner"])
    for row in kept.tagged:
        residency.marks.tag(row, kept.tags_of(row))
    used = by_recency(parents, table["generation"], table["position"])
    residency.policy.add(DISK, used)


def _enter_host(residency: Residency, header: Header, slot: int, tags: Sequence[str]) -> bool:
    index, fid = residency.index, header.frame_id
    row = index.find(fid)
    is_first = header.parent[:16] == header.root
    parent = NONE if is_first else index.find(frame_id(header.parent, header.part))
    is_older = row != NONE and index.generation[row] > header.generation
    if is_older or (row == parent == NONE and not is_first):
        residency.host.give(slot)  # an older copy of what is on disk, or out of reach
        return False
    if row == NONE:
        row = index.insert(fid, parent, header.generation)
        index.tokens[row] = header.tokens
        index.tenant[row] = residency.tenant_number(header.tenant)
    elif index.generation[row] < header.generation:  # better than what had reached the disk
        residency.room.supersede(row, header.generation)
    if not residency.is_on_disk(row):
        index.fidelity[row] = header.fidelity
        residency.limit(row, header.expiry)
    residency.marks.tag(row, tags)
    residency.put_in_host(row, slot, header.payload_bytes, is_plain=is_plain(header))
    return True


def _forget_others(residency: Residency, found: Found, kept: Found) -> None:
    """Nothing but what was kept is to be in the catalog."""
    if len(kept) < len(found):
        for fid in found.fids.tolist():
            if residency.index.find(fid) == NONE:
                residency.disk.forget(fid)


def _index(disk: DiskTier, number: int, contents: _Contents, kept: Found) -> bool:
    """Put a stripe's frames into the catalog and wipe its other slots; whether it could be done."""
    stripe = disk.stripes[number]
    for row in np.flatnonzero(kept.table["stripe"] == number).tolist():
        disk.catalog.put(kept.fids[row], contents[kept.table["slot"][row]])
    if stripe.breaker.is_open:
        return False
    try:
        stripe.wipe([slot for slot in contents if not stripe.slab.is_taken(slot)])
    except TierError as error:
        stripe.breaker.failure(str(error))
        return False
    return True


def _give_back_memory() -> None:
    """Let go of what all the columns took: 80 bytes a frame would stay with the allocator."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except AttributeError as error:
        _log.debug("this C library keeps what it has freed: %s", error)


def _ground(stripe: Stripe) -> Ground:
    return Ground(stripe.slab.slots, stripe.slab.pages, stripe.superblock.seed)


def _fact(number: int) -> bytes:
    return b"stripe:%d" % number
