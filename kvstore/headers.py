"""A million headers at once: numpy's view of the fixed part, for recovery and scans.

``plausible`` sorts out in one pass what cannot be a header; what is left is verified one by one
with ``has_sound_checksum`` (0.4 us), or read whole with ``frame.parse``.
"""

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from .frame import EXTENT_BYTES, FIXED_BYTES, MAGIC, VERSION
from .keys import KeyKind
from .segments import ROW_BYTES
from .slab import SLOT_BYTES

_FIELDS = (
    ("magic", "<u8"), ("checksum", "<u8"), ("version", "<u2"), ("flags", "<u2"),
    ("length", "<u4"), ("key", "V32"), ("parent", "V32"), ("root", "V16"), ("tenant", "V16"),
    ("group", "u1"), ("shard", "u1"), ("shards", "u1"), ("fidelity", "u1"), ("kind", "u1"),
    ("zero", "V3"), ("tokens", "<u4"), ("inline", "<u4"), ("position", "<u8"),
    ("generation", "<u8"), ("expiry", "<f8"), ("saved", "<f8"), ("payload", "<u8"),
    ("segments", "<u2"), ("extents", "<u2"), ("zero_end", "V12"),
)  # fmt: skip
_SEGMENT_FIELDS = (
    ("kind", "u1"), ("flags", "u1"), ("codec", "<u2"), ("layer_start", "<u2"),
    ("layer_end", "<u2"), ("calibration", "<u4"), ("fidelity", "u1"), ("zero", "V3"),
    ("offset", "<u8"), ("length", "<u8"), ("checksum", "<u8"),
)  # fmt: skip

HEADER_DTYPE = np.dtype(list(_FIELDS))
"""The fixed part, 192 bytes, fields named as in docs/format.md."""
SEGMENT_DTYPE = np.dtype(list(_SEGMENT_FIELDS))
EXTENT_DTYPE = np.dtype([("page", "<u4"), ("count", "<u4")])

_MAGIC = int.from_bytes(MAGIC, "little")
_CHECKSUM_AT = 8
_COVERED = 16
_MAX_GROUP = 254


def plausible(headers: NDArray[np.void]) -> NDArray[np.bool_]:
    """Which of ``headers`` (``HEADER_DTYPE``, ``[n]``) could be headers; bool ``[n]``.

    Checks every field of the fixed part against the others, not the checksum.
    """
    h = headers
    length = FIXED_BYTES + ROW_BYTES * h["segments"].astype(np.int64)
    length += EXTENT_BYTES * h["extents"].astype(np.int64)
    blocks = h["kind"] == KeyKind.BLOCK
    with np.errstate(invalid="ignore"):
        times = (h["expiry"] >= 0) & (h["saved"] >= 0)
        times &= np.isfinite(h["expiry"]) & np.isfinite(h["saved"])
    found: NDArray[np.bool_] = (
        (h["magic"] == _MAGIC)
        & (h["version"] == VERSION)
        & (h["flags"] <= 1)
        & (h["length"] == length)
        & (length + h["inline"] <= SLOT_BYTES)
        & (h["segments"] >= 2)
        & (h["kind"] <= KeyKind.ENGINE)
        & (h["group"] <= _MAX_GROUP)
        & (h["shard"] < h["shards"])
        & (h["tokens"] >= 1)
        & ((h["position"] == 0) | (h["kind"] != KeyKind.CHUNK))
        & (~blocks | (h["position"] % np.maximum(h["tokens"], 1) == 0))
        & times
    )
    return found


def has_sound_checksum(data: bytes | memoryview, slab: int = 0) -> bool:
    """Whether a plausible header is as it was written; ``slab`` is the slab's seed."""
    view = memoryview(data)
    length = int.from_bytes(view[20:24], "little")
    if not FIXED_BYTES <= length <= len(view):
        return False
    expected = int.from_bytes(view[_CHECKSUM_AT:_COVERED], "little")
    return xxh3_64_intdigest(view[_COVERED:length], slab) == expected
