"""Which weights a model in memory has: their digest, and whether they changed since.

A digest reads every weight byte, so a background thread takes it; until it is there the weights
count as known to nobody, and what is saved stays in this process.

A change is noticed at the next call: what torch counts (``kvstore.digest.Trace``), and what shows
in a few numbers of every tensor.  The latter finds what is written behind torch's back and changes
a tensor all over, as merging a LoRA adapter does.  Whoever changes single weights in such a way
calls ``forget``.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from threading import Condition, Thread
from typing import NamedTuple

import torch

from ..kvstore import digest
from ..kvstore.errors import KVStrataError
from ..kvstore.identity import private_weights

log = logging.getLogger(__name__)

_GLANCE = 8


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
        self._look()
        self._known = Known(private_weights(), change=0)
        self._is_reading = False
        self._has_digest = False
        self._begin()

    def current(self) -> Known:
        """What is known now; where the weights have changed, a new digest is begun."""
        with self._settled:
            if not self._is_unchanged():
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

    def _look(self) -> None:
        self._trace = digest.Trace(_tensors(self._model))
        self._glance = _Glance(_tensors(self._model))

    def _is_unchanged(self) -> bool:
        return self._trace.holds(_tensors(self._model)) and self._glance.holds()

    def _renew(self) -> None:
        self._look()
        self._known = Known(private_weights(), self._known.change + 1)
        self._has_digest = False
        self._begin()

    def _begin(self) -> None:
        self._is_reading = True
        Thread(
            target=self._read,
            args=(self._known.change,),
            name="kvstrata-weights",
            daemon=True,
        ).start()

    def _read(self, change: int) -> None:
        """Take the digest in a thread of its own."""
        found = ""
        try:
            found = self._take() if change == 0 else digest_of(self._model, None)
        except KVStrataError as exc:
            log.warning("no digest of the weights, so their KV stays in this process: %s", exc)
        finally:
            with self._settled:
                if change == self._known.change:
                    self._settle(found if self._is_unchanged() else "")
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


class _Glance:
    """A few numbers of every tensor, as they were; to look costs one copy to the host a dtype.

    It holds views of the tensors, which show what is in them now.
    """

    def __init__(self, tensors: Iterable[torch.Tensor]) -> None:
        views: dict[torch.dtype, list[torch.Tensor]] = {}
        for tensor in tensors:
            if type(tensor) in (torch.Tensor, torch.nn.Parameter) and not tensor.is_meta:
                views.setdefault(tensor.dtype, []).append(_few(tensor.detach()))
        self._views = list(views.values())
        self._then = self._now()

    def holds(self) -> bool:
        """Whether they are still the same."""
        return self._now() == self._then

    def _now(self) -> list[bytes]:
        with torch.no_grad():
            seen = [torch.cat(same).view(torch.uint8).cpu() for same in self._views]
        return [numbers.numpy().tobytes() for numbers in seen]


def _few(tensor: torch.Tensor) -> torch.Tensor:
    """A view of about eight numbers of a tensor, ``[number]``."""
    if tensor.is_contiguous():
        return tensor.view(-1)[:: max(1, tensor.numel() // _GLANCE)]
    while tensor.ndim > 1:
        tensor = tensor[tensor.shape[0] // 2]
    return tensor[:: max(1, tensor.numel() // _GLANCE)]
