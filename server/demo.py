"""``kvstrata demo``: a real model on long documents, without the store and with it.

Every prompt is asked once without, which takes its whole prefill, and as often as need be with:
the second question on a document, the turns of a conversation, the same in a new process, and
after a process was killed while it saved.  The text has to be the same every time.
"""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import typer

from ..kvstore.machine import memory_limit, physical_memory
from ..kvstore.settings import Settings, default_dir, default_memory
from .demo_child import Ask, Job, answers, kill_while_saving
from .demo_runs import Phase, Run, summarise, to_dict
from .demo_script import FOLLOW_UPS, Conversation, Document, Prompt, documents
from .demo_show import Show, print_table, showing
from .demo_stage import Said, Stage

_MEMORY = 1 << 30
_DISK = 3 << 29
_KILLED_AT = 3  # the save during which the process is killed


def demo(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what the store saves a real model, and that it changes no answer.

    A small model answers questions on three long documents, in this process, in a new one, and
    after one was killed while it saved; the first time it is converted, which takes a minute.

    Example: kvstrata demo --json
    """
    from ..connectors.models import smollm2

    texts = documents()
    with showing(steps(texts)) as show, _scratch() as directory:
        show.begin("preparing the model, once")
        settings = Settings(dir=directory, memory=_memory(), disk=_DISK)
        play = Play(smollm2(), settings, texts, show=show)
        play.perform()
    summary = summarise(play.runs, play.prefilled_tokens)
    if as_json:
        sys.stdout.write(json.dumps(to_dict(play.runs, summary), indent=2) + "\n")
    else:
        print_table(play.runs, summary)
    if not summary.all_same:
        raise typer.Exit(1)


class Known(NamedTuple):
    """A prompt, and what the model says to it without the store."""

    prompt: Prompt
    cold: Said


class Play:
    """The demo's acts, in order, over one store directory."""

    def __init__(
        self, model: Path, settings: Settings, texts: Sequence[Document], *, show: Show
    ) -> None:
        self.runs: list[Run] = []
        self.prefilled_tokens = 0
        self._model = model
        self._settings = settings
        self._texts = texts
        self._show = show
        self._known: list[Known] = []
        self._firsts: list[Known] = []  # the first question on each document

    def perform(self) -> None:
        """Every act."""
        with Stage(self._model, self._settings) as stage:
            self._documents(stage)
            self._conversation(stage)
            self._show.begin("writing to disk what is not there yet")
        self._new_process()
        self._after_kill()

    def _documents(self, stage: Stage) -> None:
        """The questions on each document; at the first one nothing of it is stored."""
        for text in self._texts:
            for number, question in enumerate(text.questions, start=1):
                talk = Conversation(text, question)
                prompt = talk.prompt(f"question {number}", stage.tokenizer)
                if number > 1:
                    self._learn(prompt, stage)
                self._ask("documents", prompt, stage)

    def _conversation(self, stage: Stage) -> None:
        """The last question on the first document again, and others that follow from it."""
        text = self._texts[0]
        talk = Conversation(text, text.questions[-1])
        for turn, follow_up in enumerate((*FOLLOW_UPS, ""), start=1):
            prompt = talk.prompt(f"turn {turn}", stage.tokenizer)
            cold = self._learn(prompt, stage)
            self._ask("conversation", prompt, stage)
            talk.go_on(cold.text, follow_up)

    def _new_process(self) -> None:
        """Everything again, in a process that has only the directory."""
        self._ask_elsewhere("new_process", self._known)

    def _after_kill(self) -> None:
        """A process is killed while it saves, and another one opens what it left.

        That one is asked what was on disk before, and what was being saved.
        """
        self._show.begin("a process saves, and is killed with kill -9")
        saved = self._known[0]
        salt = kill_while_saving(self._job("save", [saved]), at=_KILLED_AT)
        self._show.done()
        half = saved.prompt._replace(name=f"{self._texts[0].name}, half saved", salt=salt)
        self._ask_elsewhere("after_kill", [*self._firsts, saved._replace(prompt=half)])

    def _learn(self, prompt: Prompt, stage: Stage) -> Said:
        """What the model says without the store; a prompt is asked so only once."""
        for known in self._known:
            if known.prompt.tokens == prompt.tokens:
                return known.cold
        self._show.begin(f"{prompt.name}, {len(prompt.tokens):,} tokens, without the store")
        said = stage.without(prompt.tokens)
        self.prefilled_tokens += len(prompt.tokens)
        self._known.append(Known(prompt, said))
        return said

    def _ask(self, phase: Phase, prompt: Prompt, stage: Stage) -> None:
        """Ask with the store; where nothing is known of the prompt, nothing is stored either."""
        self._show.begin(f"{prompt.name}, {len(prompt.tokens):,} tokens, with the store")
        said = stage.ask(prompt.tokens)
        colds = [known.cold for known in self._known if known.prompt.tokens == prompt.tokens]
        if not colds:
            self._known.append(Known(prompt, said))
            self._firsts.append(Known(prompt, said))
        self._note(phase, Known(prompt, colds[0] if colds else said), said)

    def _ask_elsewhere(self, phase: Phase, asked: Sequence[Known]) -> None:
        """Ask a new process, which has what is on disk."""
        self._show.begin("a new process starts")
        for known, said in zip(asked, answers(self._job("answer", asked)), strict=True):
            self._show.begin(f"{known.prompt.name}, in a new process")
            self._note(phase, known, said)

    def _note(self, phase: Phase, known: Known, said: Said) -> None:
        run = Run(
            phase=phase,
            name=known.prompt.name,
            tier=said.tier,
            prompt_tokens=len(known.prompt.tokens),
            reused_tokens=said.reused_tokens,
            ttft_cold_s=known.cold.ttft_s,
            ttft_warm_s=said.ttft_s,
            same_output=said.text == known.cold.text,
        )
        self.runs.append(run)
        self.prefilled_tokens += run.prompt_tokens - run.reused_tokens
        self._show.done()

    def _job(self, kind: Literal["answer", "save"], asked: Sequence[Known]) -> Job:
        return Job(
            kind=kind,
            dir=str(self._settings.dir),
            model=str(self._model),
            memory=self._settings.memory,
            disk=self._settings.disk,
            asks=[Ask(list(known.prompt.tokens), known.prompt.salt) for known in asked],
        )


def steps(texts: Sequence[Document]) -> int:
    """Prompts that are asked with the store, and one kill."""
    questions, turns = sum(len(text.questions) for text in texts), 1 + len(FOLLOW_UPS)
    return questions + turns + (questions + turns - 1) + 1 + len(texts) + 1


@contextmanager
def _scratch() -> Iterator[Path]:
    """A directory beside the user's store, which is gone when the demo is over."""
    parent = default_dir(os.environ)
    parent.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="demo-", dir=parent))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _memory() -> int:
    """Room in memory for everything that the demo saves, or as much as a store takes here."""
    return min(_MEMORY, default_memory(memory_limit(physical_memory())))
