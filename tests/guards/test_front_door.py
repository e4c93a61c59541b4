"""The public names: what users may rely on.  To add or remove one, change ``PUBLIC`` with it.

A name that goes breaks somebody's program, so it says so in CHANGELOG.md.
"""

from types import ModuleType

import kvstrata

PUBLIC = {
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
}


def public_names(module: ModuleType) -> set[str]:
    """What a module offers: ``__all__``, or every name that is neither private nor a module."""
    if "__all__" in vars(module):
        return set(module.__all__)
    return {"__version__"} | {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }


def test_the_public_names_are_these() -> None:
    assert public_names(kvstrata) == PUBLIC


def test_every_public_name_is_there() -> None:
    assert [name for name in sorted(PUBLIC) if getattr(kvstrata, name, None) is None] == []


def test_the_guard_of_public_names_fires() -> None:
    door = ModuleType("door")
    vars(door)["Sneaked"] = int
    assert "Sneaked" in public_names(door)
    vars(door)["__all__"] = ["Named"]
    assert public_names(door) == {"Named"}
