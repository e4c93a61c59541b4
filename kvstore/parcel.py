"""A block on its way into host memory."""

from typing import NamedTuple


class Parcel(NamedTuple):
    """Its row, the generation that it will have, and its host slot, leased until it has arrived.

    ``replaces`` is the generation of the worse copy that it is to replace, 0 where it is new.
    """

    row: int
    generation: int
    slot: int
    nbytes: int
    replaces: int = 0
