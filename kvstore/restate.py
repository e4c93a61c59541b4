"""A header with what was said of its block since it was written."""

from .frame import EXTENT_BYTES, Header, checksum, encode
from .meta import encode_meta, parse_meta
from .slab import MAX_EXTENTS, SLOT_BYTES


def restated(header: Header, tags: tuple[str, ...], expiry: float) -> Header:
    """The header with this expiry and, where its slot has room for them, these tags."""
    header = header._replace(expiry=expiry)
    first = header.segments[0]
    if not first.is_inline:
        return header
    old = parse_meta(header.inline[: first.length])
    meta = encode_meta(old._replace(tags=tags))
    if old.tags == tags or len(meta) - first.length > _room(header):
        return header
    longer = first._replace(length=len(meta), checksum=checksum(header.frame_id, meta))
    return header._replace(segments=(longer, *header.segments[1:]), inline=meta)


def _room(header: Header) -> int:
    """Bytes that are left in the header's slot, the longest list of extents reckoned in."""
    return SLOT_BYTES - len(encode(header._replace(extents=()))) - EXTENT_BYTES * MAX_EXTENTS
