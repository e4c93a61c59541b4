"""The root of the repository is the package; src/kvstrata holds links to its parts, and only that.

Were the root itself on sys.path, ``import compression`` would find ours instead of the standard
library's (Python 3.14 has one) and ``import server`` anybody's.
"""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.guards.sources import PARTS, ROOT, files, name_of

LINKS = ("__init__.py", "py.typed", *PARTS)


@pytest.mark.parametrize("name", LINKS)
def test_each_part_is_linked_relatively(name: str) -> None:
    link = ROOT / "src" / "kvstrata" / name
    assert link.is_symlink()
    assert os.readlink(link) == f"../../{name}"


def test_nothing_else_is_in_src() -> None:
    found = {path.name for path in (ROOT / "src").iterdir()}
    assert found - {"kvstrata.egg-info"} == {"kvstrata"}
    inside = {path.name for path in (ROOT / "src" / "kvstrata").iterdir()}
    assert inside - {"__pycache__"} == set(LINKS)


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
def test_git_keeps_the_links_as_links() -> None:
    listing = subprocess.run(
        ["git", "ls-files", "--stage", "src"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    modes = {line.split("\t")[1]: line.split()[0] for line in listing}
    assert modes == {f"src/kvstrata/{name}": "120000" for name in LINKS}


def test_no_folder_has_an_init() -> None:
    found = [name_of(path) for path in files() if path.name == "__init__.py"]
    assert found == ["__init__.py"]


def test_every_tool_knows_src_and_only_src() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert config["tool"]["setuptools"]["packages"]["find"]["where"] == ["src"]
    assert config["tool"]["pytest"]["ini_options"]["pythonpath"] == ["src"]
    assert config["tool"]["mypy"]["mypy_path"] == "src"
    assert config["tool"]["ruff"]["src"] == ["src"]


def test_no_part_is_importable_by_its_bare_name(tmp_path: Path) -> None:
    question = (
        "import importlib.util, json, sys\n"
        "specs = [importlib.util.find_spec(name) for name in sys.argv[1:]]\n"
        "print(json.dumps([spec and list(spec.submodule_search_locations or [spec.origin])"
        " for spec in specs]))"
    )
    answer = subprocess.run(
        [sys.executable, "-P", "-c", question, *PARTS],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert str(ROOT) not in answer
