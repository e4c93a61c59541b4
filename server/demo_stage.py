"""The demo's model and store: asking a prompt with the store and without, by the same clock.

Time to first token runs from the call of ``generate`` until the first token of the answer is
streamed; with the store it has in it the match, the reads, the copies and the prefill of the rest.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

from ..kvstore.settings import Settings
from ..kvstore.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from ..connectors.transformers import TransformersConnector

ANSWER_TOKENS = 16


class Said(NamedTuple):
    """An answer, how long its first token took, and what of its prompt came from where."""

    ttft_s: float
    text: str
    reused_tokens: int = 0
    tier: str = "none"  # "ram", "disk" where any of it had to be read, or "none"


class Stage:
    """A model with a store."""

    def __init__(self, model: Path, settings: Settings) -> None:
        from ..connectors.models import load

        self._loaded = load(model)
        self.tokenizer = self._loaded.tokenizer
        self.store = Store(settings)
        self.connector = self._attached(salt="")
        self.without((1, 2, 3))  # whatever an engine does only once

    def without(self, tokens: Sequence[int]) -> Said:
        """Ask the engine alone."""
        ttft_s, text = self._ask(self.connector.engine, tokens)
        return Said(ttft_s, text)

    def ask(self, tokens: Sequence[int]) -> Said:
        """Ask with the store."""
        before = self.connector.counts
        ttft_s, text = self._ask(self.connector.generate, tokens)
        after = self.connector.counts
        reused = after.reused_tokens - before.reused_tokens
        from_disk = after.frames_from_disk - before.frames_from_disk
        return Said(ttft_s, text, reused, "disk" if from_disk else "ram" if reused else "none")

    def turn_to(self, salt: str) -> None:
        """See what was stored under this salt, and nothing else, from here on."""
        if salt != self.connector.identity.salt:
            self.connector.detach()
            self.connector = self._attached(salt)

    def close(self) -> None:
        """Write what is not written yet, and let go of the store."""
        self.connector.detach()
        self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _attached(self, salt: str) -> "TransformersConnector":
        from ..connectors.transformers import attach

        model, directory = self._loaded.model, self._loaded.directory
        connector = attach(model, self.store, weights=directory, salt=salt)
        connector.weights.wait()
        return connector

    def _ask(self, generate: "Callable[..., object]", tokens: Sequence[int]) -> tuple[float, str]:
        import torch

        ids, ear = torch.tensor([list(tokens)]), _Ear()
        generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=ANSWER_TOKENS,
            do_sample=False,
            streamer=ear,
        )
        return ear.ttft_s, str(self.tokenizer.decode(ear.tokens, skip_special_tokens=True))


class _Ear:
    """Hears the answer, token by token, and when it began."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.ttft_s = 0.0
        self._heard = -1  # tokens of the answer; the prompt is streamed first
        self._began = time.perf_counter()

    def put(self, tokens: "torch.Tensor") -> None:
        """The prompt, then every token of the answer."""
        self._heard += 1
        if self._heard == 1:
            self.ttft_s = time.perf_counter() - self._began
        if self._heard > 0:
            self.tokens += tokens.flatten().tolist()

    def end(self) -> None:
        """The answer is over."""
