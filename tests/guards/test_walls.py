"""The walls of the style that ruff has no rule for: lengths, the shape of protocols, manners."""

import ast
import re

import pytest

from tests.guards.sources import PARTS, Function, functions, modules, name_of

FUNCTION_LINES = 50
FILE_LINES = 400
PROTOCOL_METHODS = 5
STANDS_IN = {"generate"}
"""Functions that stand in the place of an engine's own, and so take whatever that takes."""

_BARE_NOQA = re.compile(r"#\s*noqa(?!: *[A-Z]+\d+(, *[A-Z]+\d+)* +\S+ \S)")


def long_functions(source: str) -> list[str]:
    """Functions beyond the wall, with their line."""
    return [
        f"{node.lineno}: {node.name} has {lines} lines"
        for node in functions(source)
        if (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES
    ]


def is_long(source: str) -> bool:
    """Whether a file is beyond the wall."""
    return len(source.splitlines()) > FILE_LINES


def wide_protocols(source: str) -> list[str]:
    """Protocols with more methods than a reader can hold."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef) and "Protocol" in map(ast.unparse, node.bases):
            methods = [item for item in node.body if isinstance(item, ast.FunctionDef)]
            if len(methods) > PROTOCOL_METHODS:
                found.append(f"{node.lineno}: {node.name} has {len(methods)} methods")
    return found


def unexplained(source: str) -> list[str]:
    """Rules that are switched off for a line without a reason behind their number."""
    return [
        f"{number}: {line.strip()}"
        for number, line in enumerate(source.splitlines(), start=1)
        if _BARE_NOQA.search(line)
    ]


def bad_manners(source: str) -> list[str]:
    """``hasattr`` and ``**kwargs``: both hide from types what an object is and what it takes.

    A method that an engine's interface makes take any keyword, and that reads none, names them
    with an underscore: ``**_ignored``.
    """
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [
        *(
            f"{node.lineno}: {node.name} takes **{node.args.kwarg.arg}"
            for node in functions(source)
            if node.args.kwarg and not _is_foreign(node, node.args.kwarg)
        ),
        *(f"{call.lineno}: hasattr" for call in calls if ast.unparse(call.func) == "hasattr"),
    ]


def asynchronous(source: str) -> list[str]:
    """``async`` functions; only server/ has them."""
    return [
        f"{node.lineno}: async {node.name}"
        for node in functions(source)
        if isinstance(node, ast.AsyncFunctionDef)
    ]


def sleeps(source: str) -> list[str]:
    """Tests that wait for time to pass instead of being told that it did."""
    return [
        f"{node.lineno}: {ast.unparse(node)}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("sleep", "time.sleep")
    ]


def _is_foreign(node: Function, keywords: ast.arg) -> bool:
    return keywords.arg.startswith("_") or node.name in STANDS_IN


def test_no_function_is_longer_than_the_wall() -> None:
    found = {name_of(path): long_functions(path.read_text()) for path in modules()}
    assert {name: long for name, long in found.items() if long} == {}


def test_no_file_is_longer_than_the_wall() -> None:
    assert [name_of(path) for path in modules() if is_long(path.read_text())] == []


def test_a_protocol_has_at_most_five_methods() -> None:
    found = {name_of(path): wide_protocols(path.read_text()) for path in modules(*PARTS)}
    assert {name: wide for name, wide in found.items() if wide} == {}


def test_a_rule_that_is_switched_off_names_its_reason() -> None:
    found = {name_of(path): unexplained(path.read_text()) for path in modules()}
    found.pop(name_of(modules("tests/guards")[-1].with_name("test_walls.py")))
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_our_own_api_hides_nothing() -> None:
    found = {name_of(path): bad_manners(path.read_text()) for path in modules(*PARTS)}
    assert {name: bad for name, bad in found.items() if bad} == {}


def test_only_the_server_is_asynchronous() -> None:
    inside = [part for part in PARTS if part != "server"]
    found = {name_of(path): asynchronous(path.read_text()) for path in modules(*inside)}
    assert {name: bad for name, bad in found.items() if bad} == {}


def test_no_test_sleeps() -> None:
    found = {name_of(path): sleeps(path.read_text()) for path in modules("tests")}
    assert {name: bad for name, bad in found.items() if bad} == {}


def test_the_guard_of_function_length_fires() -> None:
    body = "\n".join("    x = 1" for _ in range(FUNCTION_LINES))
    assert long_functions(f"def f():\n{body}") == ["1: f has 51 lines"]
    assert long_functions(f"class A:\n  async def f():\n{body}") == ["2: f has 51 lines"]
    assert long_functions("def f():\n" + body.removesuffix("    x = 1")) == []


def test_the_guard_of_file_length_fires() -> None:
    assert is_long("x = 1\n" * 401)
    assert not is_long("x = 1\n" * 400)


def test_the_guard_of_protocols_fires() -> None:
    methods = "\n".join(f"    def f{number}(self): ..." for number in range(6))
    assert wide_protocols(f"class Wide(Protocol):\n{methods}") == ["1: Wide has 6 methods"]
    assert wide_protocols(f"class Plain:\n{methods}") == []


@pytest.mark.parametrize("comment", ["# noqa", "#noqa", "# noqa: BLE001", "# noqa: BLE001 -"])
def test_the_guard_of_reasons_fires(comment: str) -> None:
    assert unexplained(f"x = 1  {comment}") != []


def test_the_guard_of_reasons_lets_a_reason_pass() -> None:
    assert unexplained("x = 1  # noqa: BLE001, E501 - a thread must not die unheard") == []


@pytest.mark.parametrize("source", ["def f(**kwargs): ...", "hasattr(x, 'y')"])
def test_the_guard_of_manners_fires(source: str) -> None:
    assert bad_manners(source) != []


@pytest.mark.parametrize("source", ["def generate(**kwargs): ...", "def update(**_ignored): ..."])
def test_the_guard_of_manners_lets_an_engines_own_interface_pass(source: str) -> None:
    assert bad_manners(source) == []


def test_the_guard_of_async_fires() -> None:
    assert asynchronous("async def f(): ...") == ["1: async f"]


@pytest.mark.parametrize("source", ["time.sleep(1)", "from time import sleep\nsleep(0)"])
def test_the_guard_of_sleep_fires(source: str) -> None:
    assert sleeps(source) != []
