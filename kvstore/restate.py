"""A header with what was said of its block since it was written."""

from .frame import Header, checksum, fits
from .meta import encode_meta, parse_meta


def restated(header: Header, tags: tuple[str, ...], expiry: float) -> Header:
    """The header with this expiry and, where its slot has room for them, these tags."""
    header = header._replace(expiry=expiry)
    first = header.segments[0]
    if not first.is_inline:
        return header
    old = parse_meta(header.inline[: first.length])
    meta = encode_meta(old._replace(tags=tags))
    if old.tags == tags or not fits(len(header.segments), len(meta)):
        return header
    longer = first._replace(length=len(meta), checksum=checksum(header.frame_id, meta))
    return header._replace(segments=(longer, *header.segments[1:]), inline=meta)
