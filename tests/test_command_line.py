"""The command as a user types it."""

import subprocess
import sys
from pathlib import Path

from kvstrata import __version__

SRC = Path(__file__).parents[1] / "src"


def kvstrata(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "kvstrata.server", *arguments],
        env={"PYTHONPATH": str(SRC), "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_it_says_its_version() -> None:
    done = kvstrata("--version")
    assert (done.returncode, done.stdout) == (0, f"kvstrata {__version__}\n")


def test_without_a_subcommand_it_says_what_there_is() -> None:
    done = kvstrata()
    assert "Usage: kvstrata" in done.stdout + done.stderr
    assert "--version" in done.stdout + done.stderr


def test_an_unknown_option_is_no_traceback() -> None:
    done = kvstrata("--no-such-option")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
