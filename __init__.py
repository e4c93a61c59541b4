"""kvstrata: a tiered store that lets LLM inference engines keep and reuse KV caches.

    from kvstrata import Identity, Settings, Store

    with Store(Settings.load()) as store:
        space = store.space(identity)
        with space.hold(space.match(tokens)) as hit:
            restored = hit.load(pages)

For a transformers model one line does all of it: ``kvstrata.connectors.transformers.attach``.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .kvstore.errors import KVStrataError
    from .kvstore.identity import Identity
    from .kvstore.layout import EXACT, Group, Layout, Part
    from .kvstore.pages import ArrayPages, Pages
    from .kvstore.settings import Settings
    from .kvstore.space import Space
    from .kvstore.store import Store

__version__ = "0.1.0"

__all__ = [
    "EXACT",
    "ArrayPages",
    "Group",
    "Identity",
    "KVStrataError",
    "Layout",
    "Pages",
    "Part",
    "Settings",
    "Space",
    "Store",
    "__version__",
]

_HOMES = {
    "EXACT": "layout",
    "ArrayPages": "pages",
    "Group": "layout",
    "Identity": "identity",
    "KVStrataError": "errors",
    "Layout": "layout",
    "Pages": "pages",
    "Part": "layout",
    "Settings": "settings",
    "Space": "space",
    "Store": "store",
}


def __getattr__(name: str) -> object:
    """Load a public name when it is first asked for: the command line's help needs none of them."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".kvstore.{_HOMES[name]}", __name__), name)
