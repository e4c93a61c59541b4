"""A disk that fails when it is told to: a real file behind a switchboard of faults.

    disk = FaultyDisk()
    store = Store(settings, open_file=disk.open)
    disk.fail("write", errno.ENOSPC)

Faults are looked up when an operation begins; one that hangs is carried out after all when it is
released, as a kernel does.
"""

import os
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from kvstrata.kvstore.errors import TierError
from kvstrata.kvstore.files import BlockFile, Bytes, DirectFile

Operation = Literal["read", "write", "sync"]
Damage = Callable[[Path, int, Sequence[Bytes]], None]
_NEVER_S = 120.0  # a test that forgets to release a hanging operation ends all the same


class Gate:
    """Where operations hang until the test lets them go on."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._is_open = False
        self._inside = 0

    def pass_through(self) -> None:
        """Hang until the gate is opened."""
        with self._changed:
            self._inside += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._is_open, _NEVER_S)

    def wait_for(self, operations: int) -> None:
        """Return when so many operations hang here."""
        with self._changed:
            came = self._changed.wait_for(lambda: self._inside >= operations, 30.0)
        assert came, f"{self._inside} operations came, not {operations}"

    def open(self) -> None:
        """Let all go on, and all that will come."""
        with self._changed:
            self._is_open = True
            self._changed.notify_all()


class FaultyDisk:
    """The faults of all files that were opened through it; ``only`` names the file they hit."""

    def __init__(self, only: str = "") -> None:
        self.counts: Counter[tuple[Operation, str, int]] = Counter()
        self.nbytes: Counter[tuple[Operation, str]] = Counter()
        self.only = only
        self._directory: Path | None = None
        self._errors: dict[Operation, int] = {}
        self._gates: dict[Operation, tuple[Gate, Path | None]] = {}
        self._ends_at: int | None = None
        self._damage: Damage | None = None

    def open(self, path: Path) -> BlockFile:
        """Open a file that fails as this disk does."""
        return _FaultyFile(self, path)

    def fail(self, *operations: Operation, error: int, directory: Path | None = None) -> None:
        """Answer operations with an error of the operating system, in one directory or all."""
        self._directory = directory
        self._errors.update(dict.fromkeys(operations, error))

    def hang(self, operation: Operation, *, directory: Path | None = None) -> Gate:
        """Let operations hang at a gate, in one directory or all."""
        gate = Gate()
        self._gates[operation] = gate, directory
        return gate

    def let_pass(self) -> None:
        """Hang no more operations; those that hang already go on hanging."""
        self._gates = {}

    def end_at(self, offset: int) -> None:
        """Let files end there for whoever reads."""
        self._ends_at = offset

    def damage(self, damage: Damage) -> None:
        """Let ``damage`` have its way with what was read; it may raise TierError, too."""
        self._damage = damage

    def mend(self) -> None:
        """Work from now on; what hangs goes on."""
        for gate, _ in self._gates.values():
            gate.open()
        self._errors, self._gates = {}, {}
        self._ends_at = self._damage = None

    def before(
        self, operation: Operation, path: Path, offset: int = 0, data: Sequence[Bytes] = ()
    ) -> None:
        """What happens before an operation."""
        end = offset + sum(piece.nbytes for piece in data)
        self.counts[operation, path.name, offset] += 1
        self.nbytes[operation, path.name] += end - offset
        if self.only not in ("", path.name):
            return
        gate, directory = self._gates.get(operation, (None, None))
        if gate is not None and directory in (None, path.parent):
            gate.pass_through()
        error = self._errors.get(operation)
        if error is not None and self._directory in (None, path.parent):
            raise TierError(f"{path} at {offset}: {os.strerror(error)}")
        if operation == "read" and self._ends_at is not None and end > self._ends_at:
            raise TierError(f"{path} ends before {end}")

    def after_read(self, path: Path, offset: int, into: Sequence[Bytes]) -> None:
        """What happens to bytes that were read."""
        if self._damage is not None and self.only in ("", path.name):
            self._damage(path, offset, into)


class _FaultyFile:
    """A real file; implements ``BlockFile``."""

    def __init__(self, disk: FaultyDisk, path: Path) -> None:
        self._disk = disk
        self._path = path
        self._file = DirectFile(path)

    def read(self, offset: int, into: Sequence[Bytes]) -> None:
        """Read, unless the disk has other plans."""
        self._disk.before("read", self._path, offset, into)
        self._file.read(offset, into)
        self._disk.after_read(self._path, offset, into)

    def write(self, offset: int, data: Sequence[Bytes]) -> None:
        """Write, unless the disk has other plans."""
        self._disk.before("write", self._path, offset, data)
        self._file.write(offset, data)

    def sync(self) -> None:
        """Sync, unless the disk has other plans."""
        self._disk.before("sync", self._path)
        self._file.sync()

    def resize(self, nbytes: int) -> None:
        """Resize."""
        self._file.resize(nbytes)

    def close(self) -> None:
        """Close."""
        self._file.close()
