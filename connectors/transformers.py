"""transformers: KV of prompts and answers, kept across calls of ``generate`` and across processes.

    from kvstrata.connectors.transformers import attach

    attach(model)                       # that is all: generate works as before
    model.generate(**inputs)            # computes the prompt, saves its KV and the answer's
    model.generate(**inputs)            # loads it, computes what is new

``attach`` puts a ``generate`` of its own over the model's: it loads what is stored of the prompt,
hands it to the model's ``generate`` as ``past_key_values``, and saves what is new.  Calls that the
store cannot serve go to the model as they are.  For a loop of one's own there is ``restore``:

    restored = connector.restore(input_ids, attention_mask)
    output = model.generate(input_ids, past_key_values=restored.cache)
    restored.save(output)
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput

from ..kvstore.errors import ArgumentError, KVStrataError
from ..kvstore.identity import Identity
from ..kvstore.settings import Settings
from ..kvstore.store import Store
from .architecture import Description
from .calls import Call, Reason, named, read
from .connector import SpaceConnector
from .memory import Shelf
from .restoration import Restoration
from .tally import Counts, Tally
from .weights import Weights, digest_of

log = logging.getLogger(__name__)

_VERB = "generate"


def attach(
    model: PreTrainedModel,
    store: Store | Path | None = None,
    *,
    weights: Path | None = None,
    tenant: str = "",
    salt: str = "",
    block_tokens: int = 0,
) -> "TransformersConnector":
    """Let a model's ``generate`` keep its KV in ``store``, and take from it what is there.

    Instead of a store a directory may be given, or nothing: then one is opened there, or where the
    settings say, and ``detach`` closes it.  ``weights`` is the directory that the model was loaded
    from, if its files are what the model in memory is: their digest is remembered, so the next
    start is instant.  Otherwise the parameters in memory are read, in the background, and nothing
    goes to disk before that is done.  ``tenant`` and ``salt`` keep those apart who are not to share
    (``Identity``); ``block_tokens`` is a power of two, 0 for blocks of 1 to 2 MiB.

    Raises ``LayoutError`` for a model whose KV cannot be reused, ``ArgumentError`` for one that has
    a store already, and what opening a store raises.
    """
    if _VERB in vars(model):
        raise ArgumentError("this model's generate is not its own any more; detach first")
    # before a store is opened, for the model may be refused
    description = Description(model, tenant=tenant, salt=salt, block_tokens=block_tokens)
    opened = store if isinstance(store, Store) else _opened(store)
    return TransformersConnector(
        model,
        opened,
        description=description,
        weights=Weights(model, lambda: digest_of(model, weights)),
        closes_store=opened is not store,
    )


class TransformersConnector:
    """A model and its store.  Made by ``attach``; as a context manager it ends in ``detach``.

    ``engine`` is the model's own ``generate``, which knows nothing of the store.  Several threads
    may call the model at once, as far as the model itself allows it.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        store: Store,
        *,
        description: Description,
        weights: Weights,
        closes_store: bool = False,
    ) -> None:
        self.model = model
        self.store = store
        self.weights = weights
        self._description = description
        self._closes_store = closes_store
        self._shelf = Shelf()
        self._tally = Tally()
        self.engine: Callable[..., object] = getattr(model, _VERB)
        setattr(model, _VERB, self.generate)

    @property
    def identity(self) -> Identity:
        """Under which the next call saves; private until the weights are read."""
        return replace(self._description.identity(), weights=self.weights.current().digest)

    @property
    def counts(self) -> Counts:
        """What was done so far."""
        return self._tally.counts

    def generate(self, *args: object, **kwargs: object) -> object:
        """The model's ``generate``: the same arguments, the same result."""
        arguments = named(args, kwargs)
        restored = self._restore(read(self.model, arguments))
        if isinstance(restored, Reason):
            return self.engine(**arguments)
        output = self.engine(**{**arguments, "past_key_values": restored.cache})
        if isinstance(output, torch.Tensor):
            restored.save(output)
            restored.release()
        elif isinstance(output, ModelOutput):  # the caller gets the cache with it
            restored.save(output["sequences"])
        return output

    def restore(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> Restoration:
        """A cache with what is stored of ``input_ids`` ``[row, column]``, padded on the left.

        Raises ``ArgumentError`` with the reason where ``generate`` would go past the store.
        """
        arguments = {"input_ids": input_ids, "attention_mask": attention_mask}
        restored = self._restore(read(self.model, arguments))
        if isinstance(restored, Reason):
            raise ArgumentError(f"the store cannot serve this: {restored}")
        return restored

    def detach(self) -> None:
        """Give the model its own ``generate`` back; close the store that ``attach`` opened."""
        if vars(self.model).get(_VERB) == self.generate:
            delattr(self.model, _VERB)
        self._shelf.empty()
        if self._closes_store:
            self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.detach()

    def _restore(self, call: Call | Reason) -> Restoration | Reason:
        """What is stored of a call's prompts, in a cache; the reason where it is not served."""
        if isinstance(call, Reason):
            self._tally.bypass(call)
            return call
        known = self.weights.current()
        try:
            space = self.store.space(replace(self._description.identity(), weights=known.digest))
        except KVStrataError as exc:
            log.debug("no space: %s", exc)
            self._tally.bypass(Reason.STORE)
            return Reason.STORE
        return Restoration(
            SpaceConnector(space),
            call,
            shelf=self._shelf,
            tally=self._tally,
            is_current=lambda: self.weights.current().change == known.change,
        )


def _opened(directory: Path | None) -> Store:
    return Store(Settings.load(arguments={"dir": directory}))
