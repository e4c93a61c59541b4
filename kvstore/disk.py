"""The disk tier: slab files in one directory or striped over several, and the index beside them.

A frame is written whole into one stripe, the one with the most room among those that work.  The
catalog follows behind: it says after a restart what lies where, and is never trusted further than
the header in the slot and the payload's checksum bear it out.
"""

import struct
from collections.abc import Sequence

import numpy as np

from .catalog import Catalog
from .errors import FrameError, TierError
from .files import Bytes, aligned
from .frame import Header, encode, locate, parse, verify_segment
from .payload import Sealed, cut, sectors, verify
from .slab import PAGE_BYTES
from .stripe import Stripe
from .tier import Place
from .transfers import Payload

RECORD_PREFIX = struct.Struct("<IB")


class DiskTier:
    """Frames on one or several stripes; implements ``Tier``."""

    def __init__(
        self, stripes: Sequence[Stripe], catalog: Catalog | None, *, is_written: bool = True
    ) -> None:
        self.stripes = stripes
        self._is_written = is_written
        self._catalog = catalog

    @property
    def catalog(self) -> Catalog:
        """The index on disk; a tier with stripes has one."""
        assert self._catalog is not None, "a disk tier without stripes was asked for its index"
        return self._catalog

    @property
    def takes_writes(self) -> bool:
        """Whether what is saved may go to disk now."""
        return self._is_written and any(not stripe.breaker.is_open for stripe in self.stripes)

    def is_up(self, stripe: int) -> bool:
        """Whether a stripe may be read."""
        return not self.stripes[stripe].breaker.is_open

    def has_room(self, nbytes: int) -> bool:
        """Whether a working stripe could hold ``nbytes`` if it were empty."""
        return any(
            not stripe.breaker.is_open and nbytes <= stripe.slab.pages * PAGE_BYTES
            for stripe in self.stripes
        )

    def take(self, nbytes: int) -> Place | None:
        """Reserve a place on the stripe with the most room, rather where nobody waits to write."""
        working = [n for n, stripe in enumerate(self.stripes) if not stripe.breaker.is_open]
        if len(working) > 1:
            working.sort(key=self._preference)
        for number in working:
            slot = self.stripes[number].slab.take(nbytes)
            if slot >= 0:
                return Place(number, slot)
        return None

    def give(self, place: Place) -> None:
        """Take a place back, at once or when its last I/O has ended."""
        self.stripes[place.stripe].slab.give(place.slot)

    def lease(self, place: Place) -> None:
        """Keep a place while an I/O is in flight."""
        self.stripes[place.stripe].slab.lease(place.slot)

    def release(self, place: Place) -> None:
        """End a lease."""
        self.stripes[place.stripe].slab.release(place.slot)

    def is_leased(self, place: Place) -> bool:
        """Whether an I/O is in flight."""
        return self.stripes[place.stripe].slab.is_leased(place.slot)

    def write(self, frames: Sequence[tuple[Place, Sealed]]) -> list[bytes]:
        """Write frames whose payload arrays are whole sectors; the catalog's record of each.

        The record is empty where the medium failed, which its breaker has been told.
        """
        records = [b""] * len(frames)
        for number, stripe in enumerate(self.stripes):
            here = [n for n, (place, _) in enumerate(frames) if place.stripe == number]
            try:
                written = self._write_on(stripe, [frames[n] for n in here]) if here else []
            except TierError as error:
                stripe.breaker.failure(str(error))
                continue
            for n, record in zip(here, written, strict=True):
                records[n] = record
        return records

    def _write_on(self, stripe: Stripe, frames: Sequence[tuple[Place, Sealed]]) -> list[bytes]:
        """Payloads, then headers."""
        payloads, headers, records = [], {}, []
        for place, (header, data) in frames:
            extents = stripe.slab.extents(place.slot)
            encoded = encode(header._replace(extents=extents), stripe.superblock.seed)
            payloads.append(Payload(extents, data))
            headers[place.slot] = encoded
            records.append(_record(place, encoded, len(header.inline)))
        with stripe.turns:
            stripe.write(payloads)
            stripe.write_headers(headers)
        stripe.breaker.success()
        return records

    def _preference(self, stripe: int) -> tuple[bool, int]:
        here = self.stripes[stripe]
        return here.turns.is_crowded, -here.slab.room_bytes

    def write_header(self, place: Place, header: Header) -> bytes:
        """Write the header of a frame that is there anew; the catalog's record of it."""
        stripe = self.stripes[place.stripe]
        stripe.write_headers({place.slot: encode(header, stripe.superblock.seed)})
        return self.record(place, header)

    def record(self, place: Place, header: Header) -> bytes:
        """The catalog's record of a frame whose header names the place's extents."""
        encoded = encode(header, self.stripes[place.stripe].superblock.seed)
        return _record(place, encoded, len(header.inline))

    def remember(self, fid: bytes, record: bytes, tags: Sequence[str]) -> None:
        """Queue a record for the catalog."""
        self.catalog.put(fid, record + "\0".join(tags).encode())

    def forget(self, fid: bytes) -> None:
        """Queue the end of a record."""
        self.catalog.delete(fid)

    def wipe(self, place: Place) -> None:
        """Overwrite a header that was written for a frame that is gone by now."""
        self.stripes[place.stripe].wipe([place.slot])

    def read(self, place: Place, fid: bytes, generation: int, into: Sequence[Bytes]) -> Header:
        """Read a frame and verify it: header, key, generation, every segment."""
        stripe = self.stripes[place.stripe]
        header = self.read_header_of(place, fid, generation)
        length = header.payload_bytes
        if sectors(length) > sum(piece.nbytes for piece in into):
            raise FrameError("the payload is longer than the index says")
        stripe.read(stripe.slab.extents(place.slot), cut(into, 0, sectors(length)))
        verify(header, into)
        return header

    def read_segment(self, place: Place, fid: bytes, generation: int, number: int) -> Bytes:
        """Read and verify one segment of a frame, by its number in the table, and no other."""
        stripe = self.stripes[place.stripe]
        header = self.read_header_of(place, fid, generation)
        segment = header.segments[number]
        if segment.is_inline:
            start = segment.offset
            return np.frombuffer(header.inline[start : start + segment.length], np.uint8)
        extents, skipped = locate(header, number)
        data = aligned(sectors(skipped + segment.length))
        stripe.read(extents, [data])
        found = data[skipped : skipped + segment.length]
        verify_segment(header, number, found.data)
        return found

    def read_header(self, place: Place) -> Header:
        """Read what a slot says, of whatever frame."""
        stripe = self.stripes[place.stripe]
        return parse(self._slot(place), pages=stripe.slab.pages, slab=stripe.superblock.seed)

    def read_header_of(self, place: Place, fid: bytes, generation: int) -> Header:
        """Read a frame's header; FrameError where the slot speaks of another frame."""
        return believed(self.stripes[place.stripe], self._slot(place), fid, generation)

    def _slot(self, place: Place) -> bytes:
        return self.stripes[place.stripe].read_headers([place.slot])[place.slot]

    def sync(self) -> None:
        """Slabs, then the catalog, are durable."""
        for stripe in self.stripes:
            if not stripe.breaker.is_open:
                stripe.sync()
        if self._catalog is not None:
            self._catalog.commit()
            self._catalog.sync()

    def audit(self) -> None:
        """Raise AssertionError unless every slab adds up."""
        for stripe in self.stripes:
            stripe.slab.audit()

    def close(self) -> None:
        """Close the files."""
        for stripe in self.stripes:
            stripe.close()
        if self._catalog is not None:
            self._catalog.close()


def believed(stripe: Stripe, slot: bytes, fid: bytes, generation: int) -> Header:
    """What a header slot says; FrameError unless it speaks of this frame of this generation."""
    header = parse(slot, pages=stripe.slab.pages, slab=stripe.superblock.seed)
    # a newer generation in a place that is leased only says more of the same frame
    if header.frame_id != fid or header.generation < generation:
        raise FrameError("the slot holds another frame by now")
    return header


def _record(place: Place, encoded: bytes, inline: int) -> bytes:
    return RECORD_PREFIX.pack(place.slot, place.stripe) + encoded[: len(encoded) - inline]
