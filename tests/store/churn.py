"""The process that is killed: it works on a store and says on its standard output what it may
rely on.

    python churn.py DIRECTORY SEED

    ready            the process runs; the store is about to be opened
    save N B         B blocks of prompt N are about to be saved
    flush N:B ...    so many blocks of these prompts are on disk
    drop N           prompt N is about to be dropped
    gone N           the receipt for it was given
    wrong TEXT       a byte was wrong
"""

import os
import random
import sys
import threading
from pathlib import Path

from kvstrata.kvstore.space import Space
from kvstrata.kvstore.store import Store
from tests.store.kit import MIB, Clock, Scene, identity, prompt, restore, save

NAMES = 40
BLOCKS = 4


def scene(directory: Path) -> Scene:
    """Memory for a third of what is saved, disk for all of it three times over."""
    return Scene(directory, Clock(), memory=6 * MIB, disk=64 * MIB, writers=2)


def say(text: str) -> None:
    """One line, whole or not at all."""
    os.write(1, text.encode() + b"\n")


class Churn:
    """Random verbs, each announced before it begins and confirmed after it ended."""

    def __init__(self, store: Store, seed: int) -> None:
        self._store = store
        self._space = store.space(identity())
        self._random = random.Random(seed)
        self._saved: dict[int, int] = {}

    def step(self) -> None:
        """One verb."""
        verb = self._random.choices((self.save, self.flush, self.drop, self.tag), (12, 2, 3, 1))[0]
        verb(self._random.randrange(NAMES))

    def save(self, name: int) -> None:
        """Save a prompt, or more of it."""
        blocks = self._random.randint(1, BLOCKS)
        tokens = prompt(name, blocks)
        say(f"save {name} {blocks}")
        stored = save(self._space, tokens, tags=[f"prompt {name}"])
        self._saved[name] = max(stored, self._saved.get(name, 0))

    def flush(self, _: int) -> None:
        """All that was saved is on disk."""
        saved = dict(self._saved)
        if self._store.flush():
            say("flush " + " ".join(f"{name}:{blocks}" for name, blocks in saved.items()))

    def drop(self, name: int) -> None:
        """Drop a prompt by its first block or by its tag."""
        say(f"drop {name}")
        overwrite = self._random.random() < 0.3
        if self._random.random() < 0.5:
            receipt = self._space.drop(prefix=prompt(name, 1), overwrite=overwrite)
        else:
            receipt = self._space.drop(tag=f"prompt {name}", overwrite=overwrite)
        self._saved.pop(name, None)
        if not receipt.partial:
            say(f"gone {name}")

    def tag(self, name: int) -> None:
        """Have headers written anew."""
        self._space.tag(prompt(name, BLOCKS), [f"late {self._random.randrange(5)}"])


def read(space: Space, seed: int) -> None:
    """Restore at random, for ever."""
    order = random.Random(seed)
    try:
        while True:
            restore(space, prompt(order.randrange(NAMES), BLOCKS))
    except AssertionError as error:
        say(f"wrong {error}")


def main(directory: str, seed: str) -> None:
    """Work until killed."""
    say("ready")
    store = scene(Path(directory)).open()
    space = store.space(identity())
    threading.Thread(target=read, args=(space, int(seed) + 1), daemon=True).start()
    churn = Churn(store, int(seed))
    while True:
        churn.step()


if __name__ == "__main__":
    main(*sys.argv[1:])
