"""``kvstrata stats``, ``explain`` and ``verify`` on real stores."""

import os
import subprocess
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from kvstrata.kvstore.inspection import FEW_FRAMES, inspect
from kvstrata.kvstore.keys import chain
from kvstrata.kvstore.layout import Part
from kvstrata.kvstore.settings import Settings
from kvstrata.kvstore.store import Store
from tests.cli.kit import SRC, CommandLine, family, fill, pages, settings, write_tokens
from tests.store.kit import FULL, MIB, WINDOW, identity, prompt, smooth


def snapshot(directory: Path) -> dict[str, tuple[int, bytes]]:
    """Size and superblock of every slab file."""
    found = {}
    for name in ("headers.kvs", "pages.kvs"):
        data = (directory / name).read_bytes()
        found[name] = len(data), data[:4096] if name == "headers.kvs" else b""
    return found


def test_stats_says_what_is_stored(kvstrata: CommandLine, stored: Path) -> None:
    answer = kvstrata("stats", "--dir", stored, "--json").answer
    assert (answer["blocks"], answer["payload_bytes"]) == (11, 11 * 128 * 1024)
    assert answer["dir"] == str(stored)
    (tier,) = answer["tiers"] if isinstance(answer["tiers"], list) else []
    assert (tier["name"], tier["blocks"], tier["degraded"]) == ("disk", 11, "")


def test_stats_names_the_identities(kvstrata: CommandLine, stored: Path) -> None:
    fill(stored, [prompt(7, 2)], who=identity(WINDOW, tenant="acme"))
    done = kvstrata("stats", "--dir", stored)
    for who in (identity(), identity(WINDOW, tenant="acme")):
        assert who.root.hex()[:12] in done.out
    assert "'acme'" in done.out
    assert "window of 100; blocks of 64 tokens (256 KiB)" in " ".join(done.out.split())


def test_stats_says_where_each_setting_comes_from(
    kvstrata: CommandLine, stored: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "kv.toml").write_text('policy = "lru"\n')
    monkeypatch.setenv("KVSTRATA_DEADLINE", "5s")
    done = kvstrata("stats", "--dir", stored, "--config", tmp_path / "kv.toml", "--json")
    shown = done.answer["settings"]
    assert isinstance(shown, list)
    found = {each["name"]: (each["value"], each["source"]) for each in shown}
    assert found["policy"] == ("lru", f"{tmp_path / 'kv.toml'}, line 1")
    assert found["deadline"] == ("5 s", "environment variable KVSTRATA_DEADLINE")
    assert found["dir"] == (str(stored), "argument")
    assert found["readers"] == ("4", "default")


@pytest.mark.parametrize("command", ["stats", "verify"])
def test_looking_changes_no_slab(kvstrata: CommandLine, stored: Path, command: str) -> None:
    before = snapshot(stored)
    assert kvstrata(command, "--dir", stored).status == 0
    assert snapshot(stored) == before


def test_looking_takes_no_more_memory_than_some_frames(stored: Path) -> None:
    with inspect(replace(settings(stored), memory=1 << 50)) as store:
        host = store.stats().tiers[0]
    assert (host.name, host.capacity_bytes <= FEW_FRAMES) == ("host", True)


@pytest.mark.parametrize(
    "command",
    [
        ["stats"],
        ["verify"],
        ["explain", "--tokens", "-"],
        ["drop", "--tag", "x", "--yes"],
        ["bundle", "export", "x.kvb", "--all"],
    ],
)
def test_a_directory_that_is_no_store_is_said_to_be_none_and_stays_none(
    kvstrata: CommandLine, tmp_path: Path, command: list[str]
) -> None:
    for nothing in (tmp_path / "missing", tmp_path / "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        done = kvstrata(*command, "--dir", nothing, stdin="1 2 3")
        assert (done.status, done.out) == (2, "")
        assert (
            f"kvstrata: dir = {nothing} (argument): expected the directory of a store" in done.err
        )
        assert "--dir" in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]
    assert list((tmp_path / "empty").iterdir()) == []


def test_slab_files_elsewhere_are_asked_for(kvstrata: CommandLine, tmp_path: Path) -> None:
    stripes = tmp_path / "a", tmp_path / "b"
    striped = replace(settings(tmp_path / "store"), stripes=stripes)
    with Store(striped) as store:
        tokens = prompt(1, 2)
        store.space(identity()).save(tokens, pages(store, tokens))
    assert "--config" in kvstrata("stats", "--dir", tmp_path / "store").err
    config = tmp_path / "kv.toml"
    config.write_text(f'stripes = ["{stripes[0]}", "{stripes[1]}"]\n')
    done = kvstrata("stats", "--dir", tmp_path / "store", "--config", config, "--json")
    assert done.answer["blocks"] == 2


def test_a_store_in_use_names_the_process_that_has_it(kvstrata: CommandLine, stored: Path) -> None:
    with Store(settings(stored)):
        done = kvstrata("stats", "--dir", stored)
    assert done.status == 2
    assert done.err.startswith(f"kvstrata: {stored} is in use by process {os.getpid()}")


def test_a_slab_whose_superblock_is_damaged_is_left_as_it_is(
    kvstrata: CommandLine, stored: Path
) -> None:
    with (stored / "headers.kvs").open("r+b") as file:
        file.seek(40)
        file.write(b"\xff\xff")
    before = snapshot(stored)
    done = kvstrata("stats", "--dir", stored)
    assert (done.status, "superblock" in done.err) == (2, True)
    assert snapshot(stored) == before


def test_a_bad_setting_is_one_sentence(
    kvstrata: CommandLine, stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVSTRATA_READERS", "many")
    done = kvstrata("stats", "--dir", stored)
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert "KVSTRATA_READERS" in done.err


def test_neither_help_nor_stats_loads_an_engine(stored: Path) -> None:
    for arguments in (["--help"], ["stats", "--dir", str(stored)]):
        script = (
            "import sys\n"
            "from kvstrata.server.__main__ import main\n"
            "try: main(sys.argv[1:])\n"
            "except SystemExit: pass\n"
            "print({'torch', 'transformers', 'numba'} & set(sys.modules), file=sys.stderr)"
        )
        done = subprocess.run(
            [sys.executable, "-P", "-c", script, *arguments],
            env={"PYTHONPATH": str(SRC)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr == "set()\n"


def test_explain_says_that_all_is_stored(kvstrata: CommandLine, stored: Path) -> None:
    tokens = " ".join(map(str, family()[0][:384]))
    done = kvstrata("explain", "--tokens", "-", "--dir", stored, stdin=tokens)
    assert "All 384 tokens are stored." in done.out


@pytest.mark.parametrize("form", ["[{}]", "{}"])
def test_tokens_are_a_json_list_or_words(
    kvstrata: CommandLine, stored: Path, tmp_path: Path, form: str
) -> None:
    separator = ", " if form == "[{}]" else "\n"
    file = tmp_path / "tokens"
    file.write_text(form.format(separator.join(map(str, family()[0]))))
    answer = kvstrata("explain", "--tokens", file, "--dir", stored, "--json").answer
    assert (answer["tokens"], answer["asked_tokens"]) == (384, 387)
    assert answer["cause"] == "short"


@pytest.mark.parametrize(
    "text", ["", "[]", "[1, true]", "[1, 2.5]", "1 two", '{"a": 1}', "[" * 9999]
)
def test_what_are_no_tokens_is_refused(kvstrata: CommandLine, stored: Path, text: str) -> None:
    done = kvstrata("explain", "--tokens", "-", "--dir", stored, stdin=text)
    assert (done.status, done.out) == (2, "")
    assert "expected a JSON list of token numbers" in done.err


@pytest.mark.parametrize("tokens", ["-1 2", "4294967296"])
def test_tokens_out_of_range_are_refused(kvstrata: CommandLine, stored: Path, tokens: str) -> None:
    done = kvstrata("explain", "--tokens", "-", "--dir", stored, stdin=tokens)
    assert (done.status, done.out) == (2, "")


def test_a_file_of_tokens_that_is_not_there_is_refused(
    kvstrata: CommandLine, stored: Path, tmp_path: Path
) -> None:
    done = kvstrata("explain", "--tokens", tmp_path / "gone", "--dir", stored)
    assert (done.status, "cannot be read" in done.err) == (2, True)


def test_explain_names_the_token_at_which_the_text_differs(
    kvstrata: CommandLine, stored: Path, tmp_path: Path
) -> None:
    file = write_tokens(tmp_path / "tokens", [*family()[0][:300], *range(100)])
    done = kvstrata("explain", "--tokens", file, "--dir", stored)
    assert "256 of 400 tokens are stored." in done.out
    assert "Block 4 (tokens 256 to 319) is missing" in done.out
    assert "from token 300 on" in done.out


def test_explain_says_when_a_block_expired_in_local_time(
    kvstrata: CommandLine, tmp_path: Path
) -> None:
    tokens = prompt(1, 2)
    with Store(settings(tmp_path / "store"), clock=lambda: 1_000_000.0) as store:
        store.space(identity()).save(tokens, pages(store, tokens), ttl_s=60)
    file = write_tokens(tmp_path / "tokens", tokens)
    done = kvstrata("explain", "--tokens", file, "--dir", tmp_path / "store")
    assert "it has expired at " in done.out
    shown = done.out.split("it has expired at ")[1].split()[0].rstrip(".")
    when = datetime.fromisoformat(shown)
    assert when.utcoffset() is not None


def test_explain_says_what_an_identity_that_has_the_block_differs_in(
    kvstrata: CommandLine, stored: Path, tmp_path: Path
) -> None:
    other = replace(identity(), producer="another engine")
    fill(stored, [prompt(9, 1)], who=other)
    file = write_tokens(tmp_path / "tokens", family()[0])
    command = "explain", "--tokens", file, "--dir", stored, "--identity"
    answer = kvstrata(*command, other.root.hex()[:10], "--json").answer
    assert (answer["cause"], answer["fields"]) == ("other_identity", ["producer"])
    assert kvstrata(*command, identity().root.hex().upper(), "--json").answer["tokens"] == 384


def test_several_identities_are_listed(kvstrata: CommandLine, stored: Path, tmp_path: Path) -> None:
    others = [identity(model=2), identity(tenant="acme")]
    for other in others:
        fill(stored, [prompt(9, 1)], who=other)
    file = write_tokens(tmp_path / "tokens", prompt(9, 1))
    for wanted in ("", "0123456789abcdef"):
        options = ["--identity", wanted] if wanted else []
        done = kvstrata("explain", "--tokens", file, "--dir", stored, *options)
        assert done.status == 2
        for who in (identity(), *others):
            assert who.root.hex()[:12] in done.err


def test_a_prefix_that_is_no_hexadecimal_is_refused(kvstrata: CommandLine, stored: Path) -> None:
    command = "explain", "--tokens", "-", "--dir", stored, "--identity", "smollm"
    done = kvstrata(*command, stdin="1")
    assert (done.status, "hexadecimal" in done.err) == (2, True)


def test_a_store_that_nothing_was_stored_in_has_no_identity(
    kvstrata: CommandLine, tmp_path: Path
) -> None:
    with Store(settings(tmp_path / "store")):
        pass
    done = kvstrata("explain", "--tokens", "-", "--dir", tmp_path / "store", stdin="1")
    assert (done.status, "nothing was ever stored" in done.err) == (2, True)
    assert "Nothing was ever stored" in kvstrata("stats", "--dir", tmp_path / "store").out


def test_a_whole_store_verifies(kvstrata: CommandLine, stored: Path) -> None:
    done = kvstrata("verify", "--dir", stored, "--json")
    assert (done.status, done.answer["frames"], done.answer["sound"]) == (0, 11, True)
    assert (
        "11 frames with 1.4 MiB were read and are whole." in kvstrata("verify", "--dir", stored).out
    )


def test_a_damaged_block_is_found_forgotten_and_told_by_the_exit_status(
    kvstrata: CommandLine, stored: Path, tmp_path: Path
) -> None:
    tokens = family()[2]
    key = chain(identity().root, tokens, FULL.block_tokens)[1]
    needle = smooth(key, Part(0, 0), FULL.frame_bytes(0, FULL.block_tokens))[:64].tobytes()
    data = (stored / "pages.kvs").read_bytes()
    with (stored / "pages.kvs").open("r+b") as file:
        file.seek(data.index(needle))
        file.write(b"\0")
    done = kvstrata("verify", "--dir", stored, "--json")
    assert (done.status, done.answer["damaged"], done.answer["frames"]) == (1, 1, 10)
    assert kvstrata("verify", "--dir", stored).status == 0
    file_of_tokens = write_tokens(tmp_path / "tokens", tokens)
    answer = kvstrata("explain", "--tokens", file_of_tokens, "--dir", stored, "--json").answer
    assert answer["tokens"] == FULL.block_tokens


def test_the_settings_of_a_larger_machine_do_not_keep_one_from_looking(
    kvstrata: CommandLine, stored: Path, tmp_path: Path
) -> None:
    (tmp_path / "kv.toml").write_text('memory = "900TiB"\ndisk = "900TiB"\n')
    assert Settings.load(tmp_path / "kv.toml").memory > 800 << 40
    done = kvstrata("stats", "--dir", stored, "--config", tmp_path / "kv.toml", "--json")
    assert (done.status, done.answer["blocks"]) == (0, 11)
    assert (stored / "pages.kvs").stat().st_size < 32 * MIB
