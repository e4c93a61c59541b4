"""A store that is prepared, damaged, and has to go on working."""

from tests.store.kit import KeyedPages, Scene, identity, prompt, restore, save

BLOCKS = 4


def prepare(scene: Scene, blocks: int = BLOCKS) -> list[int]:
    """One prompt on disk."""
    tokens = prompt(1, blocks)
    with scene.open() as store:
        space = store.space(identity())
        pages = KeyedPages(space, tokens)
        space.save(tokens, pages, tags=["a"])
    return tokens


def still_works(scene: Scene, tokens: list[int]) -> int:
    """Open, restore what there is, store it again; the tokens that were found at first."""
    with scene.open() as store:
        space = store.space(identity())
        found = restore(space, tokens)
        store.audit()
        assert save(space, tokens) == len(tokens) // 64
        assert restore(space, tokens) == len(tokens) // 64 * 64
        assert save(space, prompt(2, 3)) == 3
        assert store.flush()
        store.audit()
    with scene.open() as store:
        assert restore(store.space(identity()), tokens) == len(tokens) // 64 * 64
        assert restore(store.space(identity()), prompt(2, 3)) == 192
    return found
