"""What was dropped, remembered on every stripe for as long as an old header could bring it back.

Each stripe's directory has a log of tombstones (``tombstones.py``, docs/format.md).  A drop is
written to every log that can be reached and synced before it is acknowledged, and when a store
opens, the tombstones of all logs count for all stripes: one that was out of reach learns of the
drop before it serves again.  Where no stripe can be reached, the refuge takes the record, a log in
the user's state directory.

A stripe whose log is damaged or missing does not know what was dropped: it forgets everything.
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .chains import handed_down
from .disk import DiskTier
from .errors import TierError
from .files import sync_directory
from .found import Found
from .keys import KEY_BYTES
from .stripe import Stripe
from .tombstones import (
    Kind,
    State,
    Tombstone,
    encode_head,
    encode_records,
    parse,
    tag_subject,
)

_log = logging.getLogger("kvstrata")

_NAME = "tombstones.kvs"
_NOWHERE = bytes(16)  # the refuge lies beside no slab


Limits = dict[tuple[Kind, bytes], int]
"""By what a subject names: the generation up to which it is dead."""


class Log:
    """One append-only file of tombstones beside the slab with this uuid."""

    def __init__(self, path: Path, slab: bytes, *, is_new: bool) -> None:
        self._path = path
        self._slab = slab
        self.records: set[Tombstone] = set()
        self.is_damaged = False
        self._end, self._seed = 0, 0
        data = _read(path)
        if not data and is_new:
            self.restart([])
            return
        parsed = parse(data, slab)
        self.records = set(parsed.records)
        self.is_damaged = parsed.state is State.DAMAGED
        self._end, self._seed = parsed.end, parsed.seed

    def append(self, tombstones: Sequence[Tombstone]) -> None:
        """Add what is not there yet, durably; raises TierError."""
        new = [each for each in tombstones if each not in self.records]
        if not new:
            return
        data, seed = encode_records(new, self._seed)
        try:
            with self._path.open("r+b") as file:
                file.truncate(self._end)
                file.seek(self._end)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise TierError(f"cannot write {self._path}: {error.strerror}") from error
        self.records.update(new)
        self._end += len(data)
        self._seed = seed

    def restart(self, tombstones: Sequence[Tombstone]) -> None:
        """A new log in the place of the old one, durably; raises TierError."""
        head, seed = encode_head(self._slab)
        data, self._seed = encode_records(tombstones, seed)
        try:
            temporary = self._path.with_suffix(".new")
            with temporary.open("wb") as file:
                os.fchmod(file.fileno(), 0o600)
                file.write(head + data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
            sync_directory(self._path.parent)
        except OSError as error:
            raise TierError(f"cannot write {self._path}: {error.strerror}") from error
        self.records = set(tombstones)
        self._end = len(head) + len(data)
        self.is_damaged = False


class Drops:
    """The tombstones of a store.  One thread at a time (``Dropping`` sees to it)."""

    def __init__(self, disk: DiskTier, refuge: Path) -> None:
        self._disk = disk
        self._refuge = refuge
        self._logs = [_open_log(stripe) for stripe in disk.stripes]
        self.records = set[Tombstone]().union(*(log.records for log in self._logs))
        if disk.stripes and refuge.exists():
            self._empty_refuge()
        for log in self._logs:
            log.append(sorted(self.records))

    @property
    def generation(self) -> int:
        """The newest generation that some tombstone covers."""
        return max((record.generation for record in self.records), default=0)

    def add(self, tombstones: Sequence[Tombstone], unreachable: set[int]) -> None:
        """Remember drops, durably, on every stripe but those."""
        written = 0
        for number, log in enumerate(self._logs):
            if number not in unreachable:
                try:
                    log.append(tombstones)
                    written += 1
                except TierError as error:
                    self._disk.stripes[number].breaker.failure(str(error))
                    unreachable.add(number)
        if self._logs and not written:
            self._refuge.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            Log(self._refuge, _NOWHERE, is_new=True).append(tombstones)
        self.records.update(tombstones)

    def catch_up(self, stripe: int) -> None:
        """Tell a stripe that can be reached again what it missed; raises TierError."""
        self._logs[stripe].append(sorted(self.records))

    def living(self, found: Found) -> NDArray[np.bool_]:
        """Which frames no tombstone covers; bool ``[n]``."""
        limits = self._limits
        dead_up_to = _by_owner(found, limits)
        kinds = {kind for kind, _ in limits}
        if Kind.TAG in kinds:
            _by_tag(found, limits, dead_up_to)
        if Kind.KEY in kinds:
            dead_up_to = np.maximum(dead_up_to, _by_key(found, limits))
        alive: NDArray[np.bool_] = found.table["generation"] > dead_up_to
        return alive

    def _empty_refuge(self) -> None:
        log = Log(self._refuge, _NOWHERE, is_new=False)
        if log.is_damaged:
            _log.warning("%s does not say what was dropped: everything is forgotten", self._refuge)
            self._logs = [_forget_everything(stripe, []) for stripe in self._disk.stripes]
        self.records |= log.records
        for log_here in self._logs:
            log_here.append(sorted(self.records))
        self._refuge.unlink()

    @property
    def _limits(self) -> Limits:
        limits: Limits = {}
        for record in self.records:
            what = record.kind, record.subject
            limits[what] = max(record.generation, limits.get(what, 0))
        return limits


def _by_owner(found: Found, limits: Limits) -> NDArray[np.uint64]:
    """The generations up to which frames are dead by their root or tenant; uint64 ``[n]``."""
    each = [
        max(limits.get((Kind.ROOT, owner[:16]), 0), limits.get((Kind.TENANT, owner[16:]), 0))
        for owner in found.owners
    ]
    return np.array(each, np.uint64).take(found.table["owner"])


def _by_tag(found: Found, limits: Limits, dead_up_to: NDArray[np.uint64]) -> None:
    """Raise ``dead_up_to`` for the frames that are dead by their tags."""
    for number in found.tagged:
        tenant = found.owners[found.table["owner"][number]][16:]
        for tag in found.tags_of(number):
            limit = limits.get((Kind.TAG, tag_subject(tenant, tag)), 0)
            dead_up_to[number] = max(dead_up_to[number], limit)


def _by_key(found: Found, limits: Limits) -> NDArray[np.uint64]:
    """The generations up to which frames are dead by their keys or an ancestor's."""
    by_key = {subject: limit for (kind, subject), limit in limits.items() if kind is Kind.KEY}
    own = (by_key.get(fid[:KEY_BYTES], 0) for fid in found.fids.tolist())
    return handed_down(found.parents(), np.fromiter(own, np.uint64, len(found)))


def _open_log(stripe: Stripe) -> Log:
    path = stripe.directory / _NAME
    log = Log(path, stripe.superblock.slab, is_new=stripe.is_new)
    if log.is_damaged:
        _log.warning("%s does not say what was dropped: the stripe forgets everything", path)
        return _forget_everything(stripe, sorted(log.records))
    return log


def _forget_everything(stripe: Stripe, records: Sequence[Tombstone]) -> Log:
    stripe.forget_everything()
    log = Log(stripe.directory / _NAME, stripe.superblock.slab, is_new=True)
    log.restart(records)
    return log


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise TierError(f"cannot read {path}: {error.strerror}") from error
