"""What the demo asks: three documents, two questions on each, and a conversation over one of them.

The documents were written for this project and lie beside this file.  A prompt has the document
first, so that two questions on it differ at the end only, as they do wherever a text is given to a
model to work with.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_DOCUMENTS = Path(__file__).parent / "documents"
_SYSTEM = "You are a helpful assistant. You answer briefly, from the text that you are given."


class Document(NamedTuple):
    """A text and what is asked about it."""

    name: str
    text: str
    questions: tuple[str, ...]


class Prompt(NamedTuple):
    """One prompt as the model gets it, and the salt under which it is looked for."""

    name: str
    tokens: tuple[int, ...]
    salt: str = ""


def documents() -> list[Document]:
    """The documents, the shortest one first: about 2,000, 3,000 and 4,000 tokens."""
    return [
        _document(
            "lighthouses",
            "Who built the third lighthouse on the Eddystone Rocks?",
            "What did Augustin Fresnel invent?",
        ),
        _document(
            "tea",
            "Who wrote the Classic of Tea?",
            "Which ship won the great tea race of 1866?",
        ),
        _document(
            "station",
            "Who is the station leader this winter?",
            "What is the name of the supply ship?",
        ),
    ]


FOLLOW_UPS = (
    "Who was Grace Darling?",
    "Why do sailors want to keep the lights?",
)
"""How the conversation over the first document goes on, after its last question."""


class Conversation:
    """A conversation over one document."""

    def __init__(self, document: Document, question: str) -> None:
        self._name = document.name
        self._messages = [
            {"role": "system", "content": _SYSTEM},
            {"role": "user", "content": f"{document.text}\n\nQuestion: {question}"},
        ]

    def prompt(self, name: str, tokenizer: "PreTrainedTokenizerBase") -> Prompt:
        """What the model is given to answer."""
        tokens: Iterable[int] = tokenizer.apply_chat_template(  # type: ignore[assignment]
            self._messages, add_generation_prompt=True, return_dict=False
        )
        return Prompt(f"{self._name}, {name}", tuple(tokens))

    def go_on(self, answer: str, question: str) -> None:
        """The model has answered, and there is another question."""
        self._messages.append({"role": "assistant", "content": answer})
        self._messages.append({"role": "user", "content": question})


def _document(name: str, *questions: str) -> Document:
    return Document(name, (_DOCUMENTS / f"{name}.txt").read_text(encoding="utf-8"), questions)
