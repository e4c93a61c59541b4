"""``kvstrata bundle export`` and ``bundle import``: blocks from one machine to another."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path

from ..kvstore.bundle import Bundle
from ..kvstore.bundle_transfer import (
    Exported,
    Imported,
    export_bundle,
    host_bytes_for,
    import_bundle,
)
from ..kvstore.errors import BundleError
from ..kvstore.inspection import inspect, is_vacant
from ..kvstore.setting_kinds import MEMORY_MIN
from ..kvstore.settings import Settings
from ..kvstore.store import Store
from ..kvstore.units import format_size
from .cli_ground import Where, advancing, choose, read_tokens, say, say_json
from .cli_words import identity_line


def export_to(
    where: Where,
    file: Path,
    *,
    prefix: str,
    sources: Sequence[str] | None,
    force: bool,
    as_json: bool,
) -> None:
    """Write a bundle of some prompts, or of everything where ``sources`` is None."""
    prompts = None if sources is None else [read_tokens(source) for source in sources]
    with inspect(where.settings()) as store:
        identity = choose(store, prefix)
        with advancing("Exporting") as advance:
            done = export_bundle(
                store, identity, file, prompts=prompts, replace=force, progress=advance
            )
    if as_json:
        say_json({"file": str(file), "identity": identity.root.hex(), **asdict(done)})
    else:
        say(_exported(done, file))


def import_from(where: Where, file: Path, *, is_trusted: bool, create: bool, as_json: bool) -> bool:
    """Read a bundle into the store; whether all of it is there now."""
    with Bundle(file) as bundle:
        if not is_trusted:
            raise BundleError(
                f"{file} is not imported without --trust: whoever made it decides what the model "
                "will believe of its texts, because nobody can tell from KV whether it is what "
                "the model computes for them; say --trust if you made it, or know who did"
            )
        done = _import(where.settings(), bundle, create=create)
        identity = bundle.identity
    if as_json:
        say_json({"file": str(file), "identity": identity.root.hex(), **asdict(done)})
    else:
        say(f"Identity {identity_line(identity)}")
        say(_imported(done))
    return not done.refused


def _import(settings: Settings, bundle: Bundle, *, create: bool) -> Imported:
    host_bytes = host_bytes_for(bundle.block_bytes)
    is_new = is_vacant(settings)
    if is_new and not create:
        raise settings.refuse(
            "dir", "the directory of a store, and this has none; --create makes one there"
        )
    with ExitStack() as opened:
        store = None
        if not is_new:  # first, so that one that is in use says so at once
            store = opened.enter_context(inspect(settings, host_bytes=host_bytes, is_written=True))
        with advancing("Checking") as advance:
            bundle.check(advance)
        if store is None:
            store = opened.enter_context(_create(settings, host_bytes))
        with advancing("Importing") as advance:
            return import_bundle(store, bundle, progress=advance)


def _create(settings: Settings, host_bytes: int) -> Store:
    if not settings.disk:
        raise settings.refuse("disk", "more: a store without a disk tier would keep nothing")
    small = replace(settings, memory=MEMORY_MIN, write="behind")
    return Store(small, host_bytes=host_bytes)


def _exported(done: Exported, file: Path) -> str:
    lost = f"; {done.lost} were damaged or left meanwhile" if done.lost else ""
    return f"{done.blocks} blocks, {format_size(done.nbytes)}, are in {file}{lost}."


def _imported(done: Imported) -> str:
    rest = [
        f"{count} {words}"
        for count, words in (
            (done.known, "were there already"),
            (done.expired, "have expired"),
            (done.refused, "found no room"),
        )
        if count
    ]
    return ", ".join([f"{done.stored} of {done.blocks} blocks are new", *rest]) + "."
