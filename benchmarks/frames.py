"""What writing and reading a frame's header costs, beside one ``struct.pack`` and one xxh3 of it.

    python benchmarks/frames.py [--rounds 15]

The usual header: 16 tokens, one base segment, one extent.  Interleaved; medians in microseconds and
of the ratios of each round to the baseline.
"""

import argparse
import struct
from collections.abc import Callable
from statistics import median
from time import perf_counter

from xxhash import xxh3_64_intdigest

from kvstrata.compression.codec import BASE
from kvstrata.kvstore import keys
from kvstrata.kvstore.frame import Header, arrange, encode, parse, parse_record, verify_key
from kvstrata.kvstore.headers import parse_records
from kvstrata.kvstore.keys import KeyKind
from kvstrata.kvstore.layout import Part
from kvstrata.kvstore.meta import Meta, encode_meta
from kvstrata.kvstore.segments import SegmentEntry

PAGES, SLAB, CALLS = 1000, 5, 2000
ROOT = bytes(32)
WORDS = struct.Struct("<35Q")  # as many bytes as the header has


def usual() -> Header:
    """A first block's header."""
    (key,) = keys.chain(ROOT, range(16), 16)
    meta = encode_meta(Meta(keys.uint32_tokens(range(16)).tobytes()))
    base = SegmentEntry(BASE, layer_end=32, fidelity=255, length=2 << 20)
    segments, inline = arrange(keys.frame_id(key, Part(0, 0)), meta, [base])
    return Header(
        key, ROOT, ROOT[:16], bytes(16), 0, 0, 1, 255, KeyKind.BLOCK, 16, 0, 1, 0.0, 1.7e9,
        segments, ((5, 128),), inline,
    )  # fmt: skip


def bare() -> int:
    """Pack as many bytes as a header has, and sum them."""
    found: int = xxh3_64_intdigest(WORDS.pack(*range(35)), SLAB)
    return found


def timed(call: Callable[[], object], calls: int) -> float:
    """Microseconds of one call."""
    start = perf_counter()
    for _ in range(calls):
        call()
    return (perf_counter() - start) / calls * 1e6


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    header = usual()
    raw = encode(header, SLAB)
    record = raw[: len(raw) - len(header.inline)]
    many = [record] * CALLS
    work: dict[str, tuple[Callable[[], object], int]] = {
        "bare": (bare, CALLS),
        "encode": (lambda: encode(header, SLAB), CALLS),
        "parse": (lambda: parse(raw, pages=PAGES, slab=SLAB), CALLS),
        "verify_key": (lambda: verify_key(header), CALLS),
        "parse_record": (lambda: parse_record(record, pages=PAGES, slab=SLAB), CALLS),
        "parse_records, each": (lambda: parse_records(many, pages=PAGES, slab=SLAB), 1),
    }
    seen: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, (call, calls) in work.items():
            seen[name].append(timed(call, calls) * calls / CALLS)
    for name, us in seen.items():
        ratio = median(a / b for a, b in zip(us, seen["bare"], strict=True))
        print(f"{name:20}{median(us):8.2f} us{ratio:8.1f} x bare")


if __name__ == "__main__":
    main()
