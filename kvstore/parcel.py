"""A block on its way from a lower tier into host memory."""

from typing import NamedTuple


class Parcel(NamedTuple):
    """Its row and generation, and its host slot, leased until it has arrived."""

    row: int
    generation: int
    slot: int
    nbytes: int
