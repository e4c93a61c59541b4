"""The policies there are, by the name that settings say."""

from collections.abc import Callable

from .lru import Lru
from .policy import Policy

POLICIES: dict[str, Callable[[], Policy]] = {
    "lru": Lru,
}
