"""Which weights a model in memory has: their digest, and whether they changed since.

A digest reads every weight byte, so a background thread takes it; until it is there the weights
count as known to nobody, and what is saved stays in this process.  A change that torch knows of is
noticed at the next call without reading anything; ``kvstore.digest.Trace`` says what torch does not
know of, and whoever writes to weights in such a way calls ``forget``.
"""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Condition, Thread
from typing import NamedTuple

import torch

from ..kvstore import digest
from ..kvstore.errors import KVStrataError
from ..kvstore.identity import private_weights

log = logging.getLogger(__name__)


class Known(NamedTuple):
    """What is known of the weights; ``change`` counts the changes that were noticed."""

    digest: str  # or a private stand-in while there is none
    change: int


class Weights:
    """The weights of one model.  Any thread may call it.

    ``take`` gives the digest of the weights as they were loaded, of files perhaps; after a change
    it is taken of what is in memory, for the files are another model by then.
    """

    def __init__(self, model: torch.nn.Module, take: Callable[[], str]) -> None:
        self._model = model
        self._take = take
        self._settled = Condition()
        self._trace = digest.Trace(_tensors(model))
        self._known = Known(private_weights(), change=0)
        self._is_reading = False
        self._has_digest = False
        self._begin()

    def current(self) -> Known:
        """What is known now; where the weights have changed, a new digest is begun."""
        with self._settled:
            if not self._trace.holds(_tensors(self._model)):
                self._renew()
            return self._known

    def forget(self) -> None:
        """The weights were changed in a way that torch does not notice."""
        with self._settled:
            self._renew()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the weights are read; whether there is a digest."""
        self.current()
        with self._settled:
            self._settled.wait_for(lambda: not self._is_reading, timeout_s)
            return self._has_digest

    def _renew(self) -> None:
        self._trace = digest.Trace(_tensors(self._model))
        self._known = Known(private_weights(), self._known.change + 1)
        self._has_digest = False
        self._begin()

    def _begin(self) -> None:
        self._is_reading = True
        Thread(
            target=self._read,
            args=(self._known.change, self._trace),
            name="kvstrata-weights",
            daemon=True,
        ).start()

    def _read(self, change: int, trace: digest.Trace) -> None:
        """Take the digest in a thread of its own."""
        found = ""
        try:
            found = self._take() if change == 0 else digest_of(self._model, None)
        except KVStrataError as exc:
            log.warning("no digest of the weights, so their KV stays in this process: %s", exc)
        finally:
            with self._settled:
                if change == self._known.change:
                    self._settle(found if trace.holds(_tensors(self._model)) else "")
                self._settled.notify_all()

    def _settle(self, found: str) -> None:
        """The weights are read; an empty digest is one that they outran."""
        self._is_reading = False
        if found:
            self._has_digest = True
            self._known = Known(found, self._known.change)


def digest_of(model: torch.nn.Module, directory: Path | None) -> str:
    """Digest of a model's weights: of the files in ``directory``, or of what is in memory."""
    if directory is not None:
        return digest.of_files(directory)
    return digest.of_tensors([*model.named_parameters(), *model.named_buffers()])


def _tensors(model: torch.nn.Module) -> Iterator[torch.Tensor]:
    yield from model.parameters()
    yield from model.buffers()
