"""``kvstrata bundle export`` and ``import``: from one directory to another."""

from pathlib import Path

import pytest

from tests.cli.kit import CommandLine, family, fill, restored, write_tokens
from tests.store.kit import FULL, identity, prompt

STEP = FULL.block_tokens


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """Another store, with a prompt of its own."""
    fill(tmp_path / "elsewhere", [prompt(20, 1)])
    return tmp_path / "elsewhere"


@pytest.fixture
def bundle(kvstrata: CommandLine, stored: Path, tmp_path: Path) -> Path:
    """A bundle of everything in ``stored``."""
    assert kvstrata("bundle", "export", tmp_path / "all.kvb", "--all", "--dir", stored).status == 0
    return tmp_path / "all.kvb"


def test_everything_comes_along(kvstrata: CommandLine, bundle: Path, elsewhere: Path) -> None:
    done = kvstrata("bundle", "import", bundle, "--trust", "--dir", elsewhere, "--json")
    assert (done.status, done.answer["blocks"], done.answer["stored"]) == (0, 11, 11)
    assert [restored(elsewhere, each) // STEP for each in family()] == [6, 7, 2]
    assert restored(elsewhere, prompt(20, 1)) == STEP


def test_what_is_there_already_is_not_stored_again(
    kvstrata: CommandLine, bundle: Path, elsewhere: Path
) -> None:
    fill(elsewhere, [family()[0][: 3 * STEP]])
    command = "bundle", "import", bundle, "--trust", "--dir", elsewhere
    answer = kvstrata(*command, "--json").answer
    assert (answer["known"], answer["stored"]) == (3, 8)
    assert "0 of 11 blocks are new, 11 were there already." in kvstrata(*command).out


def test_some_prompts_come_alone(
    kvstrata: CommandLine, stored: Path, elsewhere: Path, tmp_path: Path
) -> None:
    first, branch, other = family()
    files = [write_tokens(tmp_path / f"{n}", each) for n, each in enumerate((branch, other))]
    options = [option for file in files for option in ("--tokens", file)]
    bundle = tmp_path / "some.kvb"
    done = kvstrata("bundle", "export", bundle, *options, "--dir", stored, "--json")
    assert (done.status, done.answer["blocks"], done.answer["frames"]) == (0, 9, 9)
    assert done.answer["nbytes"] == bundle.stat().st_size
    assert kvstrata("bundle", "import", bundle, "--trust", "--dir", elsewhere).status == 0
    assert [restored(elsewhere, each) // STEP for each in (first, branch, other)] == [4, 7, 2]


def test_a_bundle_is_readable_by_its_owner_only(bundle: Path) -> None:
    assert bundle.stat().st_mode & 0o777 == 0o600


def test_nothing_is_imported_without_trust(
    kvstrata: CommandLine, bundle: Path, elsewhere: Path
) -> None:
    done = kvstrata("bundle", "import", bundle, "--dir", elsewhere)
    assert (done.status, done.out) == (2, "")
    assert "--trust" in done.err
    assert "whoever made it decides what the model will believe" in done.err
    assert restored(elsewhere, family()[0]) == 0


def test_a_store_is_made_only_where_that_is_asked_for(
    kvstrata: CommandLine, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVSTRATA_DISK", "32MiB")
    command = "bundle", "import", bundle, "--trust", "--dir", tmp_path / "new"
    done = kvstrata(*command)
    assert (done.status, "--create" in done.err) == (2, True)
    assert not (tmp_path / "new").exists()
    assert kvstrata(*command, "--create").status == 0
    assert restored(tmp_path / "new", family()[1]) == 7 * STEP


def test_of_a_damaged_bundle_nothing_is_imported_and_no_store_made(
    kvstrata: CommandLine, bundle: Path, elsewhere: Path, tmp_path: Path
) -> None:
    data = bytearray(bundle.read_bytes())
    data[-33] ^= 1  # the count of frames, behind the last of them
    bundle.write_bytes(data)
    for directory in (elsewhere, tmp_path / "new"):
        command = "bundle", "import", bundle, "--trust", "--create", "--dir", directory
        done = kvstrata(*command)
        assert (done.status, done.out, done.err.count("\n")) == (2, "", 1)
    assert not (tmp_path / "new").exists()
    assert [restored(elsewhere, each) for each in family()] == [0, 0, 0]


@pytest.mark.parametrize("content", [None, b"", b"KVBUNDLE", b"a text"])
def test_what_is_no_bundle_is_refused(
    kvstrata: CommandLine, elsewhere: Path, tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "file"
    if content is not None:
        file.write_bytes(content)
    done = kvstrata("bundle", "import", file, "--trust", "--dir", elsewhere)
    assert (done.status, done.err.count("\n")) == (2, 1)


def test_a_file_that_is_there_is_kept_unless_forced(
    kvstrata: CommandLine, stored: Path, tmp_path: Path
) -> None:
    file = tmp_path / "mine"
    file.write_text("dear to me")
    command = "bundle", "export", file, "--all", "--dir", stored
    assert "--force" in kvstrata(*command).err
    assert file.read_text() == "dear to me"
    assert kvstrata(*command, "--force").status == 0
    assert file.read_bytes().startswith(b"KVBUNDLE")


def test_of_what_is_not_stored_there_is_no_bundle(
    kvstrata: CommandLine, stored: Path, tmp_path: Path
) -> None:
    tokens = write_tokens(tmp_path / "tokens", prompt(30, 2))
    file = tmp_path / "none.kvb"
    done = kvstrata("bundle", "export", file, "--tokens", tokens, "--dir", stored)
    assert (done.status, "nothing is stored" in done.err) == (2, True)
    assert not file.exists()


@pytest.mark.parametrize("options", [[], ["--all", "--tokens", "x"]])
def test_an_export_says_of_what(
    kvstrata: CommandLine, stored: Path, tmp_path: Path, options: list[str]
) -> None:
    done = kvstrata("bundle", "export", tmp_path / "x.kvb", *options, "--dir", stored)
    assert (done.status, "--all" in done.err) == (2, True)


def test_a_bundle_has_one_identity(kvstrata: CommandLine, stored: Path, tmp_path: Path) -> None:
    fill(stored, [prompt(8, 3)], who=identity(model=2))
    file = tmp_path / "x.kvb"
    command = "bundle", "export", file, "--all", "--dir", stored, "--json"
    assert "2 identities" in kvstrata(*command).err
    root = identity(model=2).root.hex()
    answer = kvstrata(*command, "--identity", root[:8]).answer
    assert (answer["identity"], answer["blocks"]) == (root, 3)
