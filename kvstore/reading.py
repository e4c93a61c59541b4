"""Blocks' way from disk to host memory: several at once, each verified, landed and done with alone.

    headers     of slots near each other in one read; each must name the key and generation that
                the index expects
    payloads    those in neighbouring pages in one read, straight into the host slots; each checksum
    under the lock, as they come: landed; then whoever waits for them is woken

A damaged block is quarantined, and the others of its batch never hear of it.  Where the medium
fails, each block is tried once more by itself, so that a bad sector costs one block.
"""

from collections.abc import Sequence
from typing import NamedTuple

from .disk import believed
from .errors import ArgumentError, FrameError, TierError
from .fetch import Fetch
from .frame import Header, encode
from .payload import is_plain, sectors, verify
from .promotion import Promotion
from .residency import Residency
from .transfers import Payload


class _Coming(NamedTuple):
    """A fetch whose header was read and believed, and the payload that is to come for it."""

    fetch: Fetch
    header: Header
    payload: Payload


class Reading:
    """Carries out fetches.  Several threads may call."""

    def __init__(self, residency: Residency, promotion: Promotion) -> None:
        self._residency = residency
        self._promotion = promotion
        self._stripes = residency.disk.stripes

    def read(self, fetches: Sequence[Fetch]) -> None:
        """Read blocks of one stripe into their host slots, which are leased until then."""
        stripe = self._stripes[fetches[0].source.place.stripe]
        try:
            self._read(fetches)
            stripe.breaker.success()
        except TierError as error:
            stripe.breaker.failure(str(error))
            rest = [fetch for fetch in fetches if not fetch.is_done]
            if len(fetches) == 1:
                self._land(rest)
            else:
                for fetch in rest:
                    self.read([fetch])

    def _read(self, fetches: Sequence[Fetch]) -> None:
        stripe = self._stripes[fetches[0].source.place.stripe]
        slots = stripe.read_headers([fetch.source.place.slot for fetch in fetches])
        begun = [self._begin(fetch, slots[fetch.source.place.slot]) for fetch in fetches]
        coming = [each for each in begun if each is not None]
        for numbers in stripe.arrivals([each.payload for each in coming]):
            for number in numbers:
                self._check(coming[number])
            self._land([coming[number].fetch for number in numbers])

    def _begin(self, fetch: Fetch, slot: bytes) -> _Coming | None:
        """What is to be read for a fetch; None where its header is not the one expected."""
        (_, _, host_slot, nbytes), (fid, generation, place) = fetch.parcel, fetch.source
        stripe = self._stripes[place.stripe]
        try:
            header = believed(stripe, slot, fid, generation)
            if header.payload_bytes != nbytes:  # what is behind it would be another block's
                raise FrameError("the payload is not as long as the index says")
        except FrameError as error:
            self._refuse(fetch, error)
            self._land([fetch])
            return None
        pieces = self._residency.host.pieces(host_slot, sectors(nbytes))
        return _Coming(fetch, header, Payload(stripe.slab.extents(place.slot), pieces))

    def _check(self, coming: _Coming) -> None:
        """Verify what came, and let it be found by whoever inherits the host slab."""
        fetch, header, payload = coming
        host, slot = self._residency.host, fetch.parcel.slot
        try:
            verify(header, payload.data)
            here = header._replace(extents=host.slab.extents(slot))
            host.write_header(slot, encode(here, host.superblock.seed))
        except (FrameError, ArgumentError) as error:  # the latter: no room for our extents
            self._refuse(fetch, error)
        else:
            fetch.is_plain = is_plain(header)
            fetch.is_good = True

    def _refuse(self, fetch: Fetch, error: FrameError | ArgumentError) -> None:
        row, generation, *_ = fetch.parcel
        self._residency.quarantine(row, generation, str(error))

    def _land(self, fetches: Sequence[Fetch]) -> None:
        with self._residency.lock.behind:
            for fetch in fetches:
                self._promotion.land(fetch)
        for fetch in fetches:
            fetch.finish()
