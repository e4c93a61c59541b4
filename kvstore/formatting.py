"""Writes a new slab once, in the background, while nothing is in it.

The first write into fresh extents of a file costs three times a second one, for the file system has
to note that they were written.  Header slots come first: they are few, and every block needs one.
What is being written is borrowed from the slab meanwhile, so it never meets a block's own write.
"""

import threading

from .errors import TierError
from .residency import Residency
from .slab import PAGE_BYTES, Extent
from .stripe import Stripe

_FIRST_SLOTS = 256  # formatted by the stripe as it is made, in some milliseconds
_SLOTS = 2048
_PAGES = 512  # 8 MiB, or a 64th of a smaller slab
_PAUSE_S = 0.01


class Formatting:
    """Formats stripes that are new; ``run`` is a thread's work for one of them."""

    def __init__(self, residency: Residency) -> None:
        self._residency = residency
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Let ``run`` come to an end; what is not formatted is slower to write, nothing else."""
        self._stopped.set()

    def run(self, number: int) -> None:
        """Format one stripe's header slots and pages, as long as most of it is free."""
        stripe = self._residency.disk.stripes[number]
        if not stripe.is_new:
            return
        self._format_slots(stripe)
        self._format_pages(stripe)

    def _format_slots(self, stripe: Stripe) -> None:
        with self._residency.lock.behind:
            slots = stripe.slab.borrow_slots(_FIRST_SLOTS)
        for start in range(slots.start, slots.stop, _SLOTS):
            part = range(start, min(start + _SLOTS, slots.stop))
            try:
                if not (self._stopped.is_set() or stripe.breaker.is_open):
                    stripe.write_headers(dict.fromkeys(part, b""))
            except TierError as error:
                stripe.breaker.failure(str(error))
            finally:
                with self._residency.lock.behind:
                    stripe.slab.give_back_slots(part)

    def _format_pages(self, stripe: Stripe) -> None:
        """Last page first: blocks are written from the first page on."""
        pages = stripe.slab.pages
        step = max(1, min(_PAGES, pages // 64))
        for start in range(pages - step, -1, -step):
            if self._stopped.wait(_PAUSE_S):
                return
            if not stripe.breaker.is_open:
                self._format_run(stripe, (start, step))

    def _format_run(self, stripe: Stripe, extent: Extent) -> None:
        with self._residency.lock.behind:
            is_roomy = 4 * stripe.slab.free_bytes > stripe.slab.pages * PAGE_BYTES
            if not is_roomy or not stripe.slab.borrow(extent):
                return
        try:
            stripe.zero_pages(extent)
        except TierError as error:
            stripe.breaker.failure(str(error))
        finally:
            with self._residency.lock.behind:
                stripe.slab.give_back(extent)
