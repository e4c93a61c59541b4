"""Whether the index on disk may be read: a file beside it that says how far its last user came.

LMDB finds torn pages where it looks for them, but it ends the process over some (a page of zeros, a
page number beyond the file), and it is written without sync.  So an index is not trusted

    after the machine went down with the index open     its pages may be torn
    after a process went down while it read it          it may be what ended the process

After any other end of its process, kill -9 included, the kernel has every page of it.
"""

import os
from pathlib import Path
from typing import Literal

from .errors import TierError
from .files import sync_directory

_BOOT = Path("/proc/sys/kernel/random/boot_id")

Phase = Literal["reading", "serving"]


class Mark:
    """The file ``open`` in the index's directory: this start of the machine, and the phase."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "open"

    @property
    def is_trusted(self) -> bool:
        """Whether the index was closed, or left by a process of this start while it served."""
        try:
            return self._path.read_text() == _text("serving")
        except FileNotFoundError:
            return True
        except (OSError, UnicodeDecodeError):
            return False

    def set(self, phase: Phase) -> None:
        """Say, durably, how far we are; raises TierError."""
        try:
            with self._path.open("w") as file:
                os.fchmod(file.fileno(), 0o600)
                file.write(_text(phase))
                file.flush()
                os.fsync(file.fileno())
            sync_directory(self._path.parent)
        except OSError as error:
            raise TierError(f"cannot write {self._path}: {error.strerror}") from error

    def clear(self) -> None:
        """The index is whole on disk and closed; raises TierError."""
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            raise TierError(f"cannot remove {self._path}: {error.strerror}") from error


def _text(phase: Phase) -> str:
    boot = _BOOT.read_text().strip() if _BOOT.exists() else "unknown"
    return f"{boot} {phase}\n"
