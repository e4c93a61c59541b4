"""The policies there are, by the name that settings say."""

from collections.abc import Callable

from .lru import Lru
from .policy import Facts, Policy

POLICIES: dict[str, Callable[[Facts], Policy]] = {
    "lru": Lru,
}
