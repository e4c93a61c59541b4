"""Fixtures of the connectors' tests: stores with room for small models, and one real model."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from transformers import PreTrainedModel

from kvstrata.connectors.models import Loaded, load, smollm2
from kvstrata.connectors.transformers import TransformersConnector, attach
from kvstrata.kvstore.errors import ArgumentError
from kvstrata.kvstore.settings import Settings
from kvstrata.kvstore.store import Store
from tests.connectors import tiny

MIB = 1 << 20

OpenStore = Callable[[], Store]
Attach = Callable[[PreTrainedModel], TransformersConnector]


@pytest.fixture(autouse=True)
def _own_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is remembered of drops and digests is remembered under the test's directory."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def open_store(tmp_path: Path) -> Iterator[OpenStore]:
    """Opens the test's store; it is closed when the test ends, if it is not by then."""
    with ExitStack() as stack:
        settings = Settings(dir=tmp_path / "store", memory=32 * MIB, disk=64 * MIB)
        yield lambda: stack.enter_context(Store(settings))


@pytest.fixture
def store(open_store: OpenStore) -> Store:
    """32 MiB of memory over 64 MiB of disk."""
    return open_store()


@pytest.fixture
def attached(store: Store) -> Iterator[Attach]:
    """Attaches a small model to the test's store, and waits until its weights are read."""
    with ExitStack() as stack:

        def attach_small(model: PreTrainedModel) -> TransformersConnector:
            connector = attach(model, store, block_tokens=tiny.BLOCK)
            assert connector.weights.wait(60)
            return stack.enter_context(connector)

        yield attach_small


@pytest.fixture(scope="session")
def smol() -> Loaded:
    """SmolLM2-135M-Instruct."""
    try:
        return load(smollm2())
    except ArgumentError as exc:
        pytest.skip(str(exc))
