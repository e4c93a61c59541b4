"""The project's own files, as the guards read them."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PARTS = ("blending", "compression", "connectors", "eviction", "kvstore", "server")
FOLDERS = (*PARTS, "tests", "benchmarks", "examples", "docs", ".ci")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def files(*folders: str) -> list[Path]:
    """Every file of ours in these folders, and in the root where none is named."""
    found = [path for folder in folders or FOLDERS for path in (ROOT / folder).rglob("*")]
    if not folders:
        found += (path for path in ROOT.iterdir() if path.name != ".git")  # a file in a worktree
    return sorted(path for path in found if path.is_file() and "__pycache__" not in path.parts)


def modules(*folders: str) -> list[Path]:
    """Every Python file of ours in these folders, and in the root where none is named."""
    return [path for path in files(*folders) if path.suffix == ".py"]


def name_of(path: Path) -> str:
    """A file's path from the repository's root."""
    return path.relative_to(ROOT).as_posix()


def functions(source: str) -> Iterator[Function]:
    """Every function in a module, methods and inner ones too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, Function):
            yield node
