"""What an earlier life of the store left: found again by its index, or by its headers.

The catalog is believed for a stripe whose slab it knows; a swapped or unindexed slab is read header
by header.  Either way a frame counts only if its pages are its own (of two that claim a page the
newer one stays), no tombstone covers it, and its chain reaches its root.  Payload is verified when
it is first read.
"""

import logging
import struct
from collections.abc import Callable, Container, Iterable, Iterator
from typing import NamedTuple

from .disk import RECORD_PREFIX, DiskTier
from .errors import FrameError
from .files import aligned
from .frame import Header, parse, parse_record, verify_key
from .index import DISK, HOST, NONE
from .keys import frame_id
from .payload import meta_of, sectors, verify_payload
from .residency import Residency
from .stripe import Stripe
from .tier import Place

_log = logging.getLogger("kvstrata")

Living = Callable[[Iterable["Found"]], Iterable["Found"]]
"""Leaves out what tombstones cover."""


class Found(NamedTuple):
    """A frame that an earlier life wrote, and where."""

    header: Header
    place: Place
    tags: tuple[str, ...]


def recover(residency: Residency, disk: DiskTier, living: Living) -> int:
    """Fill index, slabs and policy from what is on disk; how many frames were found again."""
    if not disk.stripes:
        return 0
    facts = disk.catalog.facts()
    seen: dict[int, list[int]] = {}
    found: list[Found] = []
    for number, stripe in enumerate(disk.stripes):
        if facts.get(_fact(number)) != stripe.superblock.slab and not stripe.is_new:
            _log.warning("%s has no index: its headers are read", stripe.directory)
            seen[number] = []
            found.extend(_by_headers(number, stripe, seen[number]))
    indexed = set(range(len(disk.stripes))) - set(seen)
    found.extend(_by_catalog(disk, indexed))
    opens = int.from_bytes(facts.get(b"opens", b""), "little") + 1
    newest = max((each.header.generation for each in found), default=0)
    with residency.lock:
        if opens > 1 or seen:
            residency.ghosts.horizon = residency.clock()
        # above whatever lies in a slot unseen: no generation is given twice
        residency.generation = max(opens << 32, newest, residency.generation)
        kept = _with_own_pages(disk, _newest(living(found)))
        count = _enter(residency, disk, kept, seen)
    for number, slots in seen.items():
        stripe = disk.stripes[number]
        stripe.wipe([slot for slot in slots if not stripe.slab.is_taken(slot)])
    disk.catalog.commit()  # first: a stripe counts as indexed from here on
    disk.catalog.sync()
    disk.catalog.state(
        {_fact(n): s.superblock.slab for n, s in enumerate(disk.stripes)}
        | {b"opens": opens.to_bytes(8, "little")}
    )
    return count


def adopt(residency: Residency, living: Living) -> int:
    """Enter the frames of a dead process's host slab; how many verify, payload and all.

    Called after ``recover``; a frame that is on disk too is one block in two places.
    """
    host = residency.host
    found: list[Found] = []
    for slot, raw in host.scan():
        try:
            header = parse(raw, pages=host.slab.pages, slab=host.superblock.seed)
            pieces = host.views(header.extents, header.payload_bytes)
            verify_payload(header, pieces)
            found.append(Found(header, Place(0, slot), meta_of(header, pieces).tags))
        except FrameError as error:
            _log.debug("slot %d of the adopted slab: %s", slot, error)
            host.wipe(slot)
    kept = sorted(_newest(living(found)), key=lambda each: -each.header.generation)
    claims = host.slab.restore([(each.place.slot, each.header.extents) for each in kept])
    with residency.lock:
        for each in found:
            residency.generation = max(residency.generation, each.header.generation)
        owned = [each for each, is_own in zip(kept, claims, strict=True) if is_own]
        entered = sum(
            _enter_host(residency, each)
            for each in sorted(owned, key=lambda each: each.header.position)
        )
        for each in found:
            if not host.slab.is_taken(each.place.slot):
                host.wipe(each.place.slot)
    return entered


def _enter_host(residency: Residency, found: Found) -> bool:
    header, (_, slot), tags = found
    index = residency.index
    row = index.find(header.frame_id)
    is_first = header.parent[:16] == header.root
    parent = NONE if is_first else index.find(frame_id(header.parent, header.part))
    is_known = row != NONE and index.generation[row] == header.generation
    if not is_known and (row != NONE or (parent == NONE and not is_first)):
        residency.host.give(slot)  # an older copy of what is on disk, or out of reach
        return False
    residency.restore(header, HOST, Place(0, slot), parent=parent, tags=tags)
    return True


def _by_catalog(disk: DiskTier, indexed: set[int]) -> Iterator[Found]:
    for fid, record in disk.catalog.scan():
        try:
            slot, number = RECORD_PREFIX.unpack_from(record)
            if number not in indexed:
                raise FrameError("a record of a slab that is not here")
            stripe = disk.stripes[number]
            length = int.from_bytes(
                record[RECORD_PREFIX.size + 20 : RECORD_PREFIX.size + 24], "little"
            )
            end = RECORD_PREFIX.size + length
            header = parse_record(
                record[RECORD_PREFIX.size : end],
                pages=stripe.slab.pages,
                slab=stripe.superblock.seed,
            )
            tags = tuple(record[end:].decode().split("\0")) if len(record) > end else ()
            yield Found(header, Place(number, slot), tags)
        except (FrameError, UnicodeDecodeError, struct.error) as error:
            _log.debug("a record of the index is not believed: %s", error)
            disk.forget(fid)


def _by_headers(number: int, stripe: Stripe, seen: list[int]) -> Iterator[Found]:
    """The frames whose headers verify; ``seen`` gets every slot that holds something."""
    for slot, raw in stripe.scan():
        seen.append(slot)
        try:
            header = parse(raw, pages=stripe.slab.pages, slab=stripe.superblock.seed)
            if not header.has_checksums:
                raise FrameError("a payload without checksums never left its process")
            yield Found(header, Place(number, slot), _tags(stripe, header))
        except FrameError as error:
            _log.debug("slot %d of %s: %s", slot, stripe.directory, error)


def _tags(stripe: Stripe, header: Header) -> tuple[str, ...]:
    """The tags of a frame whose key its meta segment, inline or not, gives."""
    first = header.segments[0]
    if first.is_inline:
        return verify_key(header).tags
    meta = aligned(sectors(first.length))
    stripe.read(header.extents, [meta])
    return verify_key(header, meta[: first.length].tobytes()).tags


def _newest(found: Iterable[Found]) -> list[Found]:
    """One frame for each id, newest first."""
    by_id: dict[bytes, Found] = {}
    for each in found:
        other = by_id.get(each.header.frame_id)
        if other is None or other.header.generation < each.header.generation:
            by_id[each.header.frame_id] = each
    return sorted(by_id.values(), key=lambda each: -each.header.generation)


def _with_own_pages(disk: DiskTier, found: list[Found]) -> list[Found]:
    """Those whose slot and pages no newer frame has, claimed in their slabs."""
    kept = []
    for number, stripe in enumerate(disk.stripes):
        here = [each for each in found if each.place.stripe == number]
        claims = stripe.slab.restore([(each.place.slot, each.header.extents) for each in here])
        for each, is_own in zip(here, claims, strict=True):
            if is_own:
                kept.append(each)
            else:
                disk.forget(each.header.frame_id)
    return kept


def _enter(
    residency: Residency, disk: DiskTier, found: list[Found], unindexed: Container[int]
) -> int:
    """Rows for the frames, parents first; a chain that breaks off is freed."""
    count = 0
    for header, place, tags in sorted(found, key=lambda each: each.header.position):
        is_first = header.parent[:16] == header.root
        parent = NONE if is_first else residency.index.find(frame_id(header.parent, header.part))
        if parent == NONE and not is_first:
            disk.give(place)
            disk.forget(header.frame_id)
            continue
        residency.restore(header, DISK, place, parent=parent, tags=tags)
        if place.stripe in unindexed:
            disk.remember(header.frame_id, disk.record(place, header), tags)
        count += 1
    return count


def _fact(number: int) -> bytes:
    return b"stripe:%d" % number
