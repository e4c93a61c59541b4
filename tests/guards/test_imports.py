"""Imports run one way: server -> connectors -> {kvstore, blending} -> {compression, eviction}.

The leaves know the standard library, the numeric libraries, and of ours the layout and the errors.
Nothing loads triton, numba, torch or an engine when it is merely imported: the sidecar starts in a
fraction of the two seconds that torch takes, and a machine without a GPU is as good as any.
"""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.guards.sources import PARTS, ROOT, modules, name_of

FOUNDATION = {"kvstore.errors": set[str](), "kvstore.layout": {"kvstore.errors"}}
BELOW = {
    "server": {"server", "connectors", "kvstore", "blending", "compression", "eviction"},
    "connectors": {"connectors", "kvstore", "blending", "compression", "eviction"},
    "kvstore": {"kvstore", "compression", "eviction"},
    "blending": {"blending", "compression", "eviction"},
    "compression": {"compression"},
    "eviction": {"eviction"},
}
LEAVES = ("compression", "eviction")
NUMERIC = {"numba", "numpy", "torch", "triton", "zstandard"}
ENGINES = ("accelerate", "gguf", "llama_cpp", "safetensors", "sglang", "transformers", "vllm")
LATE = ("numba", "triton", "torch.cuda")


class Import(NamedTuple):
    """One imported module, as a dotted name; ours without ``kvstrata.``."""

    line: int
    name: str
    is_ours: bool
    is_absolute: bool
    is_late: bool  # inside a function, or for type checkers only


def imports(source: str, module: str) -> Iterator[Import]:
    """Every import in a module, whose dotted name without ``kvstrata.`` is ``module``."""
    tree = ast.parse(source)
    late = {inner for node in ast.walk(tree) if _is_late(node) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield _absolute(node.lineno, alias.name, node in late)
        elif isinstance(node, ast.ImportFrom) and node.level:
            for name in _relative(node, module):
                yield Import(node.lineno, name, True, False, node in late)
        elif isinstance(node, ast.ImportFrom):
            module_name = str(node.module)
            yield _absolute(node.lineno, module_name, node in late)
            for alias in node.names:
                yield _absolute(node.lineno, f"{module_name}.{alias.name}", node in late)


def wrong_directions(source: str, module: str) -> list[str]:
    """Imports of ours that run against the direction, or are absolute."""
    found = []
    for each in imports(source, module):
        if each.is_ours and each.is_absolute:
            found.append(f"{module}:{each.line} imports kvstrata.{each.name} absolutely")
        elif each.is_ours and not _is_below(module, each.name):
            found.append(f"{module}:{each.line} imports {each.name or 'the front door'}")
    return found


def foreign_to_leaves(source: str, module: str) -> list[str]:
    """What a leaf imports beyond the standard library and the numeric libraries."""
    return [
        f"{module}:{each.line} imports {each.name}"
        for each in imports(source, module)
        if not each.is_ours and _top(each.name) not in sys.stdlib_module_names | NUMERIC
    ]


def early(source: str, module: str) -> list[str]:
    """What must wait until it is needed and is imported at import time."""
    return [
        f"{module}:{each.line} imports {each.name} at import time"
        for each in imports(source, module)
        if not each.is_late and not each.is_ours and f"{each.name}.".startswith(_dotted(LATE))
    ]


def _is_late(node: ast.AST) -> bool:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        return True
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def _relative(node: ast.ImportFrom, module: str) -> list[str]:
    """The modules that ``from ..x import a, b`` names; ``a`` may be a module itself."""
    above = module.split(".")[: -node.level]
    base = ".".join([*above, *([node.module] if node.module else [])])
    if not base:  # from .. import compression, __version__
        return [alias.name if alias.name in PARTS else "" for alias in node.names]
    return [f"{base}.{alias.name}" for alias in node.names] if base in PARTS else [base]


def _absolute(line: int, name: str, is_late: bool) -> Import:
    is_ours = _top(name) == "kvstrata"
    return Import(line, name.removeprefix("kvstrata.") if is_ours else name, is_ours, True, is_late)


def _is_below(module: str, target: str) -> bool:
    if module in FOUNDATION:
        return target in FOUNDATION[module]
    if target in FOUNDATION:
        return True
    part = _top(module)
    return _top(target) in BELOW[part] or (part == "server" and not target)


def _top(name: str) -> str:
    return name.split(".")[0]


def _dotted(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{name}." for name in names)


def _dotted_name(path: Path) -> str:
    return name_of(path).removesuffix(".py").replace("/", ".")


def _sweep(folders: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for path in modules(*folders):
        yield path.read_text(), _dotted_name(path)


def test_imports_run_one_way() -> None:
    assert [bad for file in _sweep(PARTS) for bad in wrong_directions(*file)] == []


def test_the_leaves_know_numeric_libraries_only() -> None:
    assert [bad for file in _sweep(LEAVES) for bad in foreign_to_leaves(*file)] == []


def test_triton_numba_and_cuda_wait_until_they_are_needed() -> None:
    assert [bad for file in _sweep(PARTS) for bad in early(*file)] == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("kvstore.store", "from ..server.app import App"),
        ("kvstore.store", "from ..connectors import transformers"),
        ("kvstore.store", "from ..blending.plan import Plan"),
        ("kvstore.store", "from .. import server"),
        ("kvstore.store", "from .. import __version__"),
        ("kvstore.store", "def late() -> None:\n    from ..server.app import App"),
        ("kvstore.store", "from kvstrata.kvstore.layout import Layout"),
        ("kvstore.store", "import kvstrata"),
        ("kvstore.layout", "from .keys import root"),
        ("kvstore.errors", "from .layout import Layout"),
        ("compression.raw", "from ..kvstore.store import Store"),
        ("compression.raw", "from ..kvstore import store"),
        ("compression.raw", "from ..eviction.policy import Policy"),
        ("connectors.vllm.worker", "from ...server.app import App"),
    ],
)
def test_the_direction_guard_fires(module: str, source: str) -> None:
    assert wrong_directions(source, module) != []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("server.__main__", "from .. import __version__\nfrom ..connectors.pages import x"),
        ("connectors.vllm.worker", "from ...kvstore.store import Store\nfrom ..pages import x"),
        ("kvstore.layout", "from .errors import LayoutError"),
        ("kvstore.store", "from . import keys\nfrom ..compression.codecs import CODECS"),
        ("compression.raw", "from ..kvstore.layout import Layout\nfrom .codec import Codec"),
        ("blending.plan", "from ..kvstore.layout import Layout"),
    ],
)
def test_the_direction_guard_lets_the_right_way_pass(module: str, source: str) -> None:
    assert wrong_directions(source, module) == []


def test_the_leaf_guard_fires() -> None:
    assert foreign_to_leaves("import lmdb", "compression.raw") != []
    assert foreign_to_leaves("import numpy as np\nimport math", "compression.raw") == []


@pytest.mark.parametrize(
    "source",
    [
        "import triton",
        "import triton.language as tl",
        "from numba import njit",
        "import torch.cuda",
        "from torch import cuda",
        "try:\n    import triton\nexcept ImportError:\n    pass",
        "class A:\n    import numba",
    ],
)
def test_the_guard_of_late_imports_fires(source: str) -> None:
    assert early(source, "compression.raw") != []


@pytest.mark.parametrize(
    "source",
    [
        "def kernel() -> None:\n    import triton",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import numba",
        "import torch",
    ],
)
def test_the_guard_of_late_imports_lets_late_ones_pass(source: str) -> None:
    assert early(source, "compression.raw") == []


def _loaded_by(names: list[str], tmp_path: Path) -> set[str]:
    """The modules in a fresh process after it imported these, while no engine is installed."""
    script = (
        "import importlib, json, sys\n"
        "names, engines = json.loads(sys.argv[1])\n"
        "sys.modules.update(dict.fromkeys(engines))\n"
        "for name in names: importlib.import_module(name)\n"
        "print(json.dumps([name for name, module in sys.modules.items() if module]))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", script, json.dumps([names, ENGINES])],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def test_the_store_starts_without_torch_numba_triton_or_an_engine(tmp_path: Path) -> None:
    parts = ("kvstore", "compression", "eviction", "server")
    names = ["kvstrata", *(f"kvstrata.{_dotted_name(path)}" for path in modules(*parts))]
    assert _loaded_by(names, tmp_path) & {"torch", "numba", "triton", *ENGINES} == set()


def test_the_watch_on_loaded_modules_fires(tmp_path: Path) -> None:
    assert "sqlite3" in _loaded_by(["sqlite3"], tmp_path)
    with pytest.raises(AssertionError, match="transformers"):
        _loaded_by(["transformers"], tmp_path)
