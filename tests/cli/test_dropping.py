"""``kvstrata drop``: what goes, what it asks, and the receipt."""

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from kvstrata.kvstore.dropping import Receipt
from kvstrata.kvstore.keys import chain
from kvstrata.server.cli_drop import in_words
from tests.cli.kit import SRC, CommandLine, family, fill, restored, write_tokens
from tests.store.kit import FULL, identity, prompt

STEP = FULL.block_tokens


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Let commands hear Ctrl-C: a shell lets what it runs in the background ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_prefix_goes_with_what_continues_it(
    kvstrata: CommandLine, stored: Path, tmp_path: Path
) -> None:
    first, branch, other = family()
    file = write_tokens(tmp_path / "tokens", first[: 5 * STEP])
    done = kvstrata("drop", "--tokens", file, "--yes", "--dir", stored)
    assert (done.status, "Dropped 2 frames at " in done.out) == (0, True)
    assert "Nothing can bring them back." in done.out
    assert [restored(stored, each) // STEP for each in (first, branch, other)] == [4, 7, 2]


def test_a_block_goes_by_its_key(kvstrata: CommandLine, stored: Path) -> None:
    first, branch, other = family()
    key = chain(identity().root, first, STEP)[0].hex()
    done = kvstrata("drop", "--key", key, "--yes", "--overwrite", "--json", "--dir", stored)
    assert (done.status, done.answer["blocks"], done.answer["complete"]) == (0, 9, True)
    assert done.answer["overwritten_bytes"] == 9 * FULL.frame_bytes(0, STEP)
    assert [restored(stored, each) // STEP for each in (first, branch, other)] == [0, 0, 2]


def test_a_tag_goes(kvstrata: CommandLine, stored: Path) -> None:
    fill(stored, [prompt(8, 3)], tags=["contract"])
    fill(stored, [prompt(8, 3)], who=identity(model=2), tags=["contract"])
    done = kvstrata("drop", "--tag", "contract", "--yes", "--json", "--dir", stored)
    assert (done.status, done.answer["blocks"]) == (0, 6)
    assert restored(stored, prompt(8, 3)) == 0
    assert restored(stored, family()[0]) == 6 * STEP


def test_a_tenant_goes(kvstrata: CommandLine, stored: Path) -> None:
    acme = identity(tenant="acme")
    fill(stored, [prompt(8, 3)], who=acme)
    done = kvstrata("drop", "--tenant", "acme", "--yes", "--json", "--dir", stored)
    assert (done.status, done.answer["blocks"]) == (0, 3)
    assert restored(stored, prompt(8, 3), who=acme) == 0
    assert restored(stored, family()[0]) == 6 * STEP


def test_a_tag_of_one_of_several_tenants_needs_an_identity(
    kvstrata: CommandLine, stored: Path
) -> None:
    fill(stored, [prompt(8, 3)], who=identity(tenant="acme"), tags=["contract"])
    command = "drop", "--tag", "contract", "--yes", "--json", "--dir", stored
    assert "--identity" in kvstrata(*command).err
    root = identity(tenant="acme").root.hex()
    assert kvstrata(*command, "--identity", root).answer["blocks"] == 3


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--tag", "a", "--tenant", "b"],
        ["--key", "abc"],
        ["--key", "g" * 64],
        ["--tokens", "-"],
    ],
)
def test_what_does_not_say_what_to_drop_drops_nothing(
    kvstrata: CommandLine, stored: Path, arguments: list[str]
) -> None:
    too_short = "1 2 3"
    done = kvstrata("drop", *arguments, "--yes", "--dir", stored, stdin=too_short)
    assert (done.status, done.out, "Traceback" in done.err) == (2, "", False)
    assert restored(stored, family()[0]) == 6 * STEP


def test_without_a_terminal_nobody_is_asked_and_nothing_dropped(
    kvstrata: CommandLine, stored: Path
) -> None:
    done = kvstrata("drop", "--tenant", "", "--dir", stored, stdin="y\n")
    assert (done.status, "--yes" in done.err) == (2, True)
    assert restored(stored, family()[0]) == 6 * STEP


@pytest.mark.parametrize(
    ("answer", "status", "left"), [(b"y\n", 0, 0), (b"n\n", 1, 6), (b"\n", 1, 6), (None, 130, 6)]
)
@pytest.mark.usefixtures("ctrl_c")
def test_on_a_terminal_it_asks(stored: Path, answer: bytes | None, status: int, left: int) -> None:
    """None is Ctrl-C."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "kvstrata.server", "drop", "--tenant=", f"--dir={stored}"],
        env={**os.environ, "PYTHONPATH": str(SRC)},
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stderr is not None
        asked = b""
        while b"[y/N]" not in asked and (more := process.stderr.read(1)):
            asked += more
        assert b"everything of tenant none" in asked and b"[y/N]" in asked, asked.decode()
        if answer is None:
            _interrupt(process)
        else:
            os.write(ours, answer)
        _, rest = process.communicate()
        assert (process.returncode, b"Traceback" in rest) == (status, False)
    os.close(ours)
    os.close(theirs)
    assert restored(stored, family()[0]) == left * STEP


def _interrupt(process: subprocess.Popen[bytes]) -> None:
    """Press Ctrl-C until it is heard: one that comes just before the process reads is not."""
    for _ in range(60):
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=1)
            return
    process.kill()
    raise AssertionError("Ctrl-C was never heard")


def test_a_partial_receipt_says_so() -> None:
    receipt = Receipt(
        when=0.0,
        blocks=3,
        removed={"host": 0, "disk": 3},
        overwritten_bytes=0,
        freed_bytes=3 << 20,
        partial=("the second disk: Input/output error",),
    )
    words = in_words(receipt)
    assert "NOT COMPLETE" in words
    assert "the second disk: Input/output error" in words
    assert "Nothing can bring them back" not in words
