"""The demo's other processes: one that answers, and one that saves until it is killed.

A job goes in on standard input as one JSON object; what happens comes out on standard output, a
JSON object a line.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from ..kvstore.errors import KVStrataError
from ..kvstore.settings import Settings
from .demo_stage import Said, Stage

if TYPE_CHECKING:
    from subprocess import Popen

_START = "from kvstrata.server.demo_child import work; work()"
_SAVES = 6


class Ask(msgspec.Struct, frozen=True):
    """A prompt, and the salt under which it is looked for."""

    tokens: list[int]
    salt: str = ""


class Job(msgspec.Struct, frozen=True):
    """What a process is to do with the store in ``dir``: answer prompts, or save the first one."""

    kind: Literal["answer", "save"]
    dir: str
    model: str
    memory: int
    disk: int
    asks: list[Ask]

    @property
    def settings(self) -> Settings:
        """How the store is set up."""
        return Settings(dir=Path(self.dir), memory=self.memory, disk=self.disk)


class Line(msgspec.Struct, frozen=True):
    """What a process says: an answer, or that it is about to save."""

    ttft_s: float = 0.0
    text: str = ""
    reused_tokens: int = 0
    tier: str = ""
    saving: str = ""  # the salt under which it saves


def answers(job: Job) -> Iterator[Said]:
    """The prompts of a job, answered by a new process."""
    with _process(job) as process:
        for line in _lines(process):
            yield Said(line.ttft_s, line.text, line.reused_tokens, line.tier)
    if process.returncode:
        raise KVStrataError(f"a process of the demo ended with status {process.returncode}")


def kill_while_saving(job: Job, *, at: int) -> str:
    """Kill -9 a process when it begins its save number ``at``; the salt of its first save."""
    with _process(job) as process:
        begun = []
        for line in _lines(process):
            begun.append(line.saving)
            if len(begun) == at:
                process.kill()
    if process.returncode != -signal.SIGKILL:
        raise KVStrataError(f"the process to be killed ended by itself: {process.returncode}")
    return begun[0]


def work() -> None:
    """What a process does."""
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    with Stage(Path(job.model), job.settings) as stage:
        if job.kind == "save":
            _save_copies(stage, job.asks[0].tokens)
        for ask in job.asks:
            stage.turn_to(ask.salt)
            _say(Line(*stage.ask(ask.tokens)))


def _save_copies(stage: Stage, prompt: list[int]) -> None:
    """Save a stored prompt again and again, as if for somebody else each time; then wait."""
    import torch

    from ..connectors.pages import MemoryPages

    restored = stage.connector.restore(torch.tensor([prompt]))
    for number in range(_SAVES):
        salt = f"copy {number}"
        space = stage.store.space(replace(stage.connector.identity, salt=salt))
        _say(Line(saving=salt))
        space.save(prompt[: restored.columns], MemoryPages(restored.cache.memory, 0))
    signal.pause()


@contextmanager
def _process(job: Job) -> "Iterator[Popen[bytes]]":
    path = os.pathsep.join(folder for folder in sys.path if folder)
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", _START],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": path},
    )
    with process:
        try:
            assert process.stdin is not None
            process.stdin.write(msgspec.json.encode(job))
            process.stdin.close()
            yield process
        except BaseException:
            process.kill()
            raise


def _lines(process: "Popen[bytes]") -> Iterator[Line]:
    assert process.stdout is not None
    for line in process.stdout:
        yield msgspec.json.decode(line, type=Line)


def _say(line: Line) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(line) + b"\n")
    sys.stdout.buffer.flush()
