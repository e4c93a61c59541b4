"""Words that do not belong in the project: names that say nothing, leftovers, somebody's paths."""

import ast
import re
from pathlib import Path

import pytest

from tests.guards.sources import files, functions, modules, name_of

EMPTY_WORDS = {"factory", "helper", "helpers", "manager", "managers", "misc", "util", "utils"}
EMPTY_FIRST = {"abstract", "base"}  # of a class: BaseTier; the base segment of a frame is a thing
EMPTY_LAST = {"impl"}
EMPTY_NAMES = {"get_or_create"}

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_LEFTOVER = re.compile(r"\b(TODO|FIXME)\b")
_MACHINE_PATH = re.compile(r"(?<![\w.~}-])/(work|root|home|Users|tmp)/\w")
_HERE = Path(__file__)


def words(name: str) -> list[str]:
    """The words of a name in any case: BlockFile, block_file."""
    return [word.lower() for word in _WORD.findall(name)]


def empty_names(source: str) -> list[str]:
    """Classes and functions named after no thing of the domain."""
    nodes = list(ast.walk(ast.parse(source)))
    classes = [node for node in nodes if isinstance(node, ast.ClassDef)]
    return [
        *(f"{node.lineno}: {node.name}" for node in functions(source) if _is_empty(node.name)),
        *(f"{node.lineno}: {node.name}" for node in classes if _is_empty_class(node.name)),
    ]


def leftovers(text: str) -> list[str]:
    """Marks of work that was not finished."""
    return _lines(_LEFTOVER, text)


def machine_paths(text: str) -> list[str]:
    """Paths that are there on the machine of whoever wrote them, and nowhere else."""
    return _lines(_MACHINE_PATH, text)


def _is_empty(name: str) -> bool:
    if name.startswith("test_"):  # a claim, not a thing
        return False
    return name in EMPTY_NAMES or bool(EMPTY_WORDS & set(words(name)))


def _is_empty_class(name: str) -> bool:
    said = words(name) or [""]
    return _is_empty(name) or said[0] in EMPTY_FIRST or said[-1] in EMPTY_LAST


def _lines(pattern: re.Pattern[str], text: str) -> list[str]:
    return [
        f"{number}: {line.strip()}"
        for number, line in enumerate(text.splitlines(), start=1)
        if pattern.search(line)
    ]


def _texts() -> dict[str, str]:
    """Every text of ours but this one, which names what it looks for."""
    found = {}
    for path in files():
        try:
            found[name_of(path)] = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:  # a file of hostile bytes, or a picture
            continue
    del found[name_of(_HERE)]
    return found


def test_every_name_says_what_the_thing_is() -> None:
    found = {name_of(path): empty_names(path.read_text()) for path in modules()}
    assert {name: empty for name, empty in found.items() if empty} == {}


def test_every_file_is_named_after_a_thing() -> None:
    empty = EMPTY_WORDS | EMPTY_FIRST | EMPTY_LAST
    assert [name_of(path) for path in modules() if empty & set(words(path.stem))] == []


def test_nothing_is_left_unfinished() -> None:
    found = {name: leftovers(text) for name, text in _texts().items()}
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_no_path_of_one_machine_is_in_the_project() -> None:
    found = {name: machine_paths(text) for name, text in _texts().items()}
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "source",
    [
        "class StoreManager: ...",
        "class BaseTier: ...",
        "class AbstractTier: ...",
        "class TierImpl: ...",
        "class IOHelper: ...",
        "class TierFactory: ...",
        "def copy_utils(): ...",
        "class A:\n    async def get_or_create(self): ...",
    ],
)
def test_the_guard_of_names_fires(source: str) -> None:
    assert empty_names(source) != []


@pytest.mark.parametrize(
    "source",
    ["class Database: ...", "def rebase(): ...", "class Store: ...", "def whole_base(): ..."],
)
def test_the_guard_of_names_lets_whole_words_pass(source: str) -> None:
    assert empty_names(source) == []


def test_the_guard_of_leftovers_fires() -> None:
    assert leftovers("x = 1  # TODO: more") == ["1: x = 1  # TODO: more"]
    assert leftovers("mastodon") == []


@pytest.mark.parametrize("text", ["/home/me/x", "'/tmp/x'", "file:///root/x", "see /work/main"])
def test_the_guard_of_paths_fires(text: str) -> None:
    assert machine_paths(text) != []


@pytest.mark.parametrize("text", ["~/.cache", "src/home/x", "https://a.org/home/x", "{dir}/tmp/x"])
def test_the_guard_of_paths_lets_others_pass(text: str) -> None:
    assert machine_paths(text) == []
