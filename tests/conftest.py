"""What every test shares: one thread for tensors, hypothesis without clocks, and the long mode.

OpenMP threads that spin for work make copies ten times slower where cores are shared, so tensors
get one thread unless OMP_NUM_THREADS says otherwise; it is read when torch is first imported.
"""

import os

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

settings.register_profile("short", deadline=None, max_examples=50)
settings.register_profile("long", deadline=None, max_examples=1000)


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--long``: more kills, more examples, more time."""
    parser.addoption("--long", action="store_true", help="run the long mode of the test suite")


def pytest_configure(config: pytest.Config) -> None:
    """Take hypothesis's profile from the mode, unless the command line names one."""
    if not config.getoption("--hypothesis-profile"):
        settings.load_profile("long" if config.getoption("--long") else "short")


@pytest.fixture
def is_long(request: pytest.FixtureRequest) -> bool:
    """Whether the suite runs in its long mode."""
    return bool(request.config.getoption("--long"))
