"""What a chain of keys costs beside bare SHA-256 calls over the same bytes.

    python benchmarks/keys.py [--tokens 32768] [--rounds 60]

Two baselines, both with the loop and the list that any user of hashlib would write: ``bare`` cuts
the packed tokens into blocks and hashes each, without a parent; ``ready`` hashes messages of the
full length that were made beforehand, which no chain can do, since each message holds the digest
before it.  Interleaved; medians of the ratios of each round.  From a list the packing of Python
integers is part of both sides (of ``ready`` too).
"""

import argparse
import random
from array import array
from collections.abc import Callable, Sequence
from hashlib import sha256
from statistics import median
from time import perf_counter

import numpy as np

from kvstrata.kvstore import keys

ROOT = bytes(32)
FRAMING = 53  # bytes that stand around the tokens of a block


def bare(tokens: keys.Tokens, block_tokens: int) -> list[bytes]:
    """Pack and hash each block, no parent."""
    raw = packed(tokens)
    step = 4 * block_tokens
    found = []
    for start in range(0, len(raw), step):
        found.append(sha256(raw[start : start + step]).digest())  # noqa: PERF401 - as users write it
    return found


def ready(tokens: keys.Tokens, messages: Sequence[bytes]) -> list[bytes]:
    """Pack, then hash messages that are there already."""
    packed(tokens)
    found = []
    for message in messages:
        found.append(sha256(message).digest())  # noqa: PERF401 - as users write it
    return found


def packed(tokens: keys.Tokens) -> bytes:
    """uint32-LE, the fastest way there is for lists and for arrays."""
    if isinstance(tokens, np.ndarray):
        return tokens.tobytes()
    return array("I", tokens).tobytes()


def timed(call: Callable[[], list[bytes]]) -> float:
    """Seconds of one call."""
    start = perf_counter()
    call()
    return perf_counter() - start


def measure(tokens: keys.Tokens, block_tokens: int, rounds: int) -> tuple[float, float, float]:
    """Microseconds a block of ``chain``, and its ratio to ``bare`` and to ``ready``."""
    count = len(tokens) // block_tokens
    messages = [random.randbytes(FRAMING + 4 * block_tokens) for _ in range(count)]
    seconds = [
        (
            timed(lambda: keys.chain(ROOT, tokens, block_tokens)),
            timed(lambda: bare(tokens, block_tokens)),
            timed(lambda: ready(tokens, messages)),
        )
        for _ in range(rounds)
    ]
    return (
        median(ours for ours, _, _ in seconds) / count * 1e6,
        median(ours / theirs for ours, theirs, _ in seconds),
        median(ours / theirs for ours, _, theirs in seconds),
    )


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=32_768)
    parser.add_argument("--rounds", type=int, default=60)
    options = parser.parse_args()
    numbers = [random.randrange(150_000) for _ in range(options.tokens)]
    print(f"{'from':8}{'block':>6}{'us/block':>10}{'/ bare':>8}{'/ ready':>9}")
    forms: dict[str, keys.Tokens] = {"list": numbers, "array": np.array(numbers, np.uint32)}
    for name, tokens in forms.items():
        for block_tokens in (16, 32, 64, 128, 256, 512):
            us, to_bare, to_ready = measure(tokens, block_tokens, options.rounds)
            print(f"{name:8}{block_tokens:6}{us:10.2f}{to_bare:8.2f}{to_ready:9.2f}")


if __name__ == "__main__":
    main()
