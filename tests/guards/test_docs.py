"""The documents: their links lead somewhere, and they know every setting."""

import re
from pathlib import Path

from kvstrata.kvstore.settings import Settings
from tests.guards.sources import ROOT, files, name_of

_LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)\s]*)?\)")


def dead_links(text: str, folder: Path) -> list[str]:
    """Relative links that lead to no file."""
    return [target for target in _LINK.findall(text) if not (folder / target).exists()]


def test_no_link_is_dead() -> None:
    pages = [path for path in files() if path.suffix == ".md"]
    found = {name_of(page): dead_links(page.read_text(), page.parent) for page in pages}
    assert {name: dead for name, dead in found.items() if dead} == {}


def test_the_readme_knows_every_setting() -> None:
    table = (ROOT / "README.md").read_text()
    assert [name for name, _, _ in Settings().describe() if f"`{name}`" not in table] == []


def test_the_guard_of_links_fires(tmp_path: Path) -> None:
    (tmp_path / "there.md").touch()
    text = "[a](there.md) [b](there.md#part) [c](https://a.org/x.md) [d](gone.md) [e](gone.md#x)"
    assert dead_links(text, tmp_path) == ["gone.md", "gone.md"]
