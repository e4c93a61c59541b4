"""Makes the hostile frames in this folder: ``python tests/hostile/make.py``.

Each is a header of a slab of 64 pages with one lie in it and every checksum recomputed, as a forger
would; nothing here uses the code that it attacks.  Files named ``good-`` tell the truth.
"""

import struct
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path

from xxhash import xxh3_64_intdigest

HERE = Path(__file__).parent
SLOT_BYTES = 4096
PAGE_BYTES = 16_384
PAGES = 64
SLAB = 0x1122334455667788
"""The seed of the slab that the headers claim to lie in."""

Row = list[int]
Fields = dict[str, int | float | bytes]


class Draft:
    """A frame in the making: everything that a header says, open to be falsified."""

    def __init__(self) -> None:
        self.root = sha256(b"an identity").digest()
        self.claimed_root = self.root
        self.claimed_tokens: Sequence[int] = range(100, 116)
        self.claimed_extras = b"an image"
        self.count = 16
        self.words: tuple[list[bytes], list[bytes]] = ([b"user:7"], [b"importance"])
        self.word_count = 1
        self.rows: list[Row] = [
            # kind, flags, codec, layers, calibration, fidelity, reserved, offset, length
            [0, 1, 0, 0, 0, 0, 0, 0, 0, -1],
            [1, 0, 1, 0, 4, 0, 200, 0, 0, 20_000],
            [3, 0, 0, 0, 0, 0, 0, 0, 20_000, 300],
            [2, 0, 1, 0, 4, 0, 240, 0, 20_300, 30_000],
        ]
        self.extents = [(40, 1), (7, 3)]
        self.fixed: Fields = {}
        self.trailer = b""
        self.meta_end = b""
        self.cut = SLOT_BYTES

    def meta(self) -> bytes:
        """The meta segment."""
        tokens, extras = self.claimed_tokens, self.claimed_extras
        raw = struct.pack(f"<I{len(tokens)}I", self.count, *tokens)
        raw += struct.pack("<I", len(extras)) + extras
        for words in self.words:
            raw += struct.pack("<H", self.word_count if words else 0)
            raw += b"".join(struct.pack("<H", len(word)) + word for word in words)
        return raw + self.meta_end

    def slot(self) -> bytes:
        """The header slot, with good checksums over whatever it says."""
        meta = self.meta()
        fields = (b"block", self.root, struct.pack("<16I", *range(100, 116)), b"an image")
        root, length = self.claimed_root, 192 + 40 * len(self.rows) + 8 * len(self.extents)
        numbers: Fields = {
            "version": 1, "flags": 0, "length": length,
            "key": sha256(b"".join(map(framed, fields))).digest(),
            "parent": root, "root": root[:16], "tenant": bytes(16),
            "group": 0, "shard": 1, "shards": 2, "fidelity": 200, "kind": 0, "zero": bytes(3),
            "tokens": 16, "inline": len(meta), "position": 0, "generation": 9,
            "expiry": 0.0, "saved": 1.7e9, "payload": 50_300, "segments": len(self.rows),
            "extents": len(self.extents), "zeros": bytes(12),
        }  # fmt: skip
        numbers |= self.fixed
        body = struct.pack("<HHI32s32s16s16s5B3sIIQQddQHH12s", *numbers.values())
        seed = struct.unpack_from("<Q", body, 8)[0] ^ (body[104] << 8) ^ body[105]
        for row in self.rows:
            body += packed_row(row, meta, seed)
        for run in self.extents:
            body += struct.pack("<II", *run)
        magic = struct.pack("<8sQ", b"KVSTRATA", xxh3_64_intdigest(body, SLAB))
        return (magic + body + meta + self.trailer)[: self.cut]


def framed(field: bytes) -> bytes:
    """A field behind its length."""
    return struct.pack("<I", len(field)) + field


def packed_row(row: Row, meta: bytes, seed: int) -> bytes:
    """A segment row; a length of -1 stands for the meta segment's."""
    kind, flags, codec, start, end, calibration, fidelity, zero, offset, length = row
    length = len(meta) if length < 0 else length
    checksum = xxh3_64_intdigest(meta[offset : offset + length], seed) if flags & 1 else 0
    numbers = (kind, flags, codec, start, end, calibration, fidelity, bytes([0, zero, 0]))
    return struct.pack("<BBHHHIB3sQQQ", *numbers, offset, length, checksum)


def lie(name: str, value: int | float | bytes) -> Callable[[Draft], None]:
    """One field of the fixed part is another."""
    return lambda draft: draft.fixed.update({name: value})


def row(number: int, field: int, value: int) -> Callable[[Draft], None]:
    """One field of a segment row is another."""
    return lambda draft: draft.rows[number].__setitem__(field, value)


def extents(*runs: tuple[int, int]) -> Callable[[Draft], None]:
    """The payload lies elsewhere."""
    return lambda draft: setattr(draft, "extents", list(runs))


def part(name: str, value: object) -> Callable[[Draft], None]:
    """A whole part of the draft is another."""
    return lambda draft: setattr(draft, name, value)


GOOD: dict[str, Callable[[Draft], None]] = {
    "good-frame": lambda draft: None,
    "good-unknown-optional-segment": row(2, 0, 0x84),
    "good-bytes-behind-the-inline-bytes": part("trailer", b"\xff" * 100),
}
HOSTILE: dict[str, tuple[Callable[[Draft], None], str]] = {
    "cut-in-the-fixed-part": (part("cut", 150), "too few for a header"),
    "cut-in-the-segment-table": (part("cut", 220), "a header of 368 bytes"),
    "cut-in-the-inline-bytes": (part("cut", 400), "inline bytes behind"),
    "empty": (part("cut", 0), "too few for a header"),
    "version-from-the-future": (lie("version", 2), "version 2"),
    "unknown-flag": (lie("flags", 2), "reserved"),
    "reserved-bytes-in-the-fixed-part": (lie("zero", b"\0\1\0"), "reserved"),
    "reserved-bytes-at-the-end": (lie("zeros", b"\1" + bytes(11)), "reserved"),
    "length-too-long": (lie("length", 4000), "a header of 4000"),
    "length-huge": (lie("length", 0xFFFFFFFF), "a header of 4294967295"),
    "length-zero": (lie("length", 0), "a header of 0"),
    "segments-more-than-there-are": (lie("segments", 65_535), "65535 segments"),
    "segments-none": (part("rows", []), "do not cover"),
    "extents-more-than-there-are": (lie("extents", 65_535), "65535 extents"),
    "inline-longer-than-the-slot": (lie("inline", 4096), "4096 inline bytes"),
    "inline-huge": (lie("inline", 0xFFFFFFFF), "4294967295 inline"),
    "inline-shorter-than-its-segments": (lie("inline", 10), "segment 0 does not follow"),
    "payload-huge": (lie("payload", 2**64 - 1), "do not cover"),
    "payload-shorter-than-its-segments": (lie("payload", 50_299), "segment 3 does not follow"),
    "kind-unknown": (lie("kind", 3), "key kind"),
    "group-255": (lie("group", 255), "group"),
    "shard-beyond-the-shards": (lie("shard", 2), "shard"),
    "shards-none": (lie("shards", 0), "shard"),
    "tokens-none": (lie("tokens", 0), "number of tokens"),
    "tokens-other-than-in-meta": (lie("tokens", 8), "16 tokens in the meta segment"),
    "position-no-multiple": (lie("position", 15), "no multiple"),
    "position-huge": (lie("position", 2**63), "position"),
    "position-of-a-later-block-with-a-first-ones-parent": (lie("position", 16), "parent"),
    "parent-another": (lie("parent", b"p" * 32), "parent"),
    "root-another": (lie("root", b"r" * 16), "parent"),
    "key-another": (lie("key", b"k" * 32), "do not give the header's key"),
    "expiry-not-a-number": (lie("expiry", float("nan")), "times"),
    "expiry-infinite": (lie("expiry", float("inf")), "times"),
    "expiry-negative": (lie("expiry", -1.0), "times"),
    "saved-infinite": (lie("saved", float("inf")), "times"),
    "fidelity-more-than-the-segments-give": (lie("fidelity", 241), "fidelity"),
    "segment-of-unknown-required-kind": (row(2, 0, 4), "required kind 4"),
    "segment-of-known-kind-called-optional": (row(2, 0, 0x83), "required kind 131"),
    "segment-with-unknown-flags": (row(1, 1, 2), "unknown flags"),
    "segment-with-reserved-bytes": (row(1, 7, 1), "reserved"),
    "segment-without-layers": (row(1, 4, 0), "no layers"),
    "segment-with-layers-backwards": (row(3, 3, 5), "no layers"),
    "segments-overlap": (row(2, 8, 19_999), "segment 2 does not follow"),
    "segments-leave-a-gap": (row(2, 8, 20_001), "segment 2 does not follow"),
    "segment-before-the-payload": (row(1, 8, 2**64 - 1), "segment 1 does not follow"),
    "segment-beyond-the-payload": (row(3, 9, 30_001), "segment 3 does not follow"),
    "segment-length-wraps-around": (row(1, 9, 2**64 - 1), "segment 1 does not follow"),
    "segment-claims-to-be-inline": (row(1, 1, 1), "segment 1 does not follow"),
    "meta-missing": (row(0, 0, 3), "segment 0 is of kind 3"),
    "meta-twice": (row(2, 0, 0), "segment 2 is of kind 0"),
    "meta-with-a-codec": (row(0, 2, 1), "codec"),
    "meta-shorter-than-the-inline-bytes": (row(0, 9, 50), "do not cover"),
    "base-missing": (row(1, 0, 2), "none is a base"),
    "extents-overlap": (extents((40, 1), (38, 3)), "overlaps"),
    "extents-twice-the-same": (extents((40, 2), (40, 2)), "overlaps"),
    "extents-leave-the-slab": (extents((61, 4)), "leaves the slab"),
    "extents-wrap-around": (extents((0xFFFFFFFF, 4)), "leaves the slab"),
    "extents-huge": (extents((0, 0xFFFFFFFF)), "leaves the slab"),
    "extents-empty-run": (extents((40, 4), (50, 0)), "run of 0 pages"),
    "extents-too-few-pages": (extents((40, 3)), "not the pages"),
    "extents-too-many-pages": (extents((40, 5)), "not the pages"),
    "extents-none": (extents(), "not the pages"),
    "words-not-utf-8": (part("words", ([b"\xff\xfe"], [])), "UTF-8"),
    "words-empty": (part("words", ([b""], [])), "no word of 0"),
    "words-with-zero-bytes": (part("words", ([b"a\0b"], [])), "no word of 3"),
    "meta-with-bytes-behind": (part("meta_end", b"\0"), "follow the meta"),
    "identity-another": (part("claimed_root", bytes(32)), "do not give the header's key"),
    "tokens-another": (part("claimed_tokens", range(16)), "do not give the header's key"),
    "extras-another": (part("claimed_extras", b"image"), "do not give the header's key"),
    "meta-counts-tokens-that-are-not-there": (part("count", 1 << 30), "names 4294967296 bytes"),
    "meta-counts-words-that-are-not-there": (part("word_count", 65_535), "no word of \\d+ bytes"),
}


def slots() -> dict[str, bytes]:
    """Every file of the folder: name and bytes."""
    made = {}
    changes = {name: change for name, (change, _) in HOSTILE.items()}
    for name, change in {**GOOD, **changes}.items():
        draft = Draft()
        change(draft)
        made[f"{name}.frame"] = draft.slot()
    return made


if __name__ == "__main__":
    for file, data in slots().items():
        (HERE / file).write_bytes(data)
