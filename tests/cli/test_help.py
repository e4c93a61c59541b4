"""What every command says of itself."""

import pytest

from tests.cli.kit import CommandLine

VERBS = ("stats", "explain", "verify", "drop", "bundle export", "bundle import")
SHOWS = ("demo", "bench store")


@pytest.mark.parametrize("command", [*VERBS, *SHOWS])
def test_every_command_has_json_and_an_example(kvstrata: CommandLine, command: str) -> None:
    done = kvstrata(*command.split(), "--help")
    assert (done.status, "--json" in done.out) == (0, True)
    assert f"Example: kvstrata {command}" in done.out


@pytest.mark.parametrize("command", VERBS)
def test_every_verb_takes_a_directory_and_a_settings_file(
    kvstrata: CommandLine, command: str
) -> None:
    help = kvstrata(*command.split(), "--help").out
    assert "--dir" in help and "--config" in help


def test_every_command_is_listed(kvstrata: CommandLine) -> None:
    listed = kvstrata("--help").out
    assert [name for name in (*VERBS, *SHOWS) if f" {name.split()[0]} " not in listed] == []


def test_what_a_command_does_not_know_is_no_traceback(kvstrata: CommandLine) -> None:
    for arguments in (["stats", "--no-such-option"], ["bundle", "copy"], ["statistics"]):
        done = kvstrata(*arguments)
        assert (done.status, done.out, "Traceback" in done.err) == (2, "", False)
