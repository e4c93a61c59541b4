"""The bundle file: its bytes, and what comes out of it."""

import struct
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from kvstrata.kvstore.bundle import Bundle, new_bundle
from kvstrata.kvstore.bundle_transfer import (
    Imported,
    export_bundle,
    host_bytes_for,
    import_bundle,
)
from kvstrata.kvstore.errors import ArgumentError, BundleError
from kvstrata.kvstore.identity import Identity, private_weights
from kvstrata.kvstore.inspection import inspect
from kvstrata.kvstore.keys import chain
from kvstrata.kvstore.layout import Layout, Part
from kvstrata.kvstore.store import Store
from tests.cli.kit import family, fill, pages, restored, settings
from tests.store.kit import (
    FULL,
    LATENT,
    LAYOUTS,
    MIB,
    ROUGH,
    WINDOW,
    Clock,
    KeyedPages,
    identity,
    prompt,
    smooth,
)

STEP = FULL.block_tokens


def export(directory: Path, file: Path, who: Identity | None = None) -> Path:
    """Everything of an identity, in a file."""
    with inspect(settings(directory)) as store:
        export_bundle(store, who or identity(), file)
    return file


def take_in(directory: Path, file: Path, *, disk: int = 32 * MIB) -> Imported:
    """Import a file into a store, which is made where there is none."""
    with Store(settings(directory, disk=disk)):
        pass
    with (
        Bundle(file) as bundle,
        inspect(settings(directory), host_bytes=2 * MIB, is_written=True) as store,
    ):
        bundle.check()
        done = import_bundle(store, bundle)
        store.audit()
        return done


@pytest.fixture
def bundle(stored: Path, tmp_path: Path) -> Path:
    """A bundle of eleven blocks."""
    return export(stored, tmp_path / "all.kvb")


def records(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Header and payload of each frame, read as docs/format.md says."""
    at = 16 + struct.unpack_from("<I", data, 12)[0]
    while True:
        header, payload = struct.unpack_from("<IQ", data, at)
        if not header:
            assert struct.unpack_from("<Q", data, at + 4)[0] == payload
            assert len(data) == at + 12 + 32
            return
        at += 12
        yield data[at : at + header], data[at + header : at + header + payload]
        at += header + payload


def test_the_bytes_are_as_specified(bundle: Path) -> None:
    data, text = bundle.read_bytes(), identity().to_json()
    assert data[:16] == b"KVBUNDLE" + struct.pack("<HHI", 1, 0, len(text))
    assert data[16 : 16 + len(text)] == text
    assert data[-32:] == sha256(data[:-32]).digest()
    frames = list(records(data))
    assert struct.unpack("<Q", data[-40:-32]) == (len(frames),) == (11,)
    for header, payload in frames:
        assert header[:8] == b"KVSTRATA"
        assert header[18] == 1  # the payload's checksums are present
        assert header[178:180] == bytes(2)  # no extents
        assert struct.unpack_from("<Q", header, 168) == (len(payload),)


def test_blocks_are_depth_first(bundle: Path) -> None:
    path = [identity().root]
    for header, _ in records(bundle.read_bytes()):
        key, parent = header[24:56], header[56:88]
        while path[-1] != parent:
            path.pop()  # IndexError where the parent was not before
        path.append(key)


def test_a_block_has_the_payload_that_was_saved(bundle: Path) -> None:
    payloads = {header[24:56]: payload for header, payload in records(bundle.read_bytes())}
    for tokens in family():
        for key in chain(identity().root, tokens, STEP):
            size = FULL.frame_bytes(0, STEP)
            assert payloads[key] == smooth(key, Part(0, 0), size).tobytes()


@pytest.mark.parametrize("codec", ["raw", "plane-huff"])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_what_went_in_comes_out(tmp_path: Path, layout: Layout, codec: str) -> None:
    who = identity(layout)
    fill(tmp_path / "a", family(layout), who=who, codec=codec)
    file = export(tmp_path / "a", tmp_path / "x.kvb", who)
    assert take_in(tmp_path / "b", file) == Imported(11, 11, 0, 0, 0)
    lengths = [restored(tmp_path / "b", each, who=who) for each in family(layout)]
    assert [length // layout.block_tokens for length in lengths] == [6, 7, 2]


def test_blocks_come_from_a_store_in_use_as_well(tmp_path: Path) -> None:
    with Store(settings(tmp_path / "a")) as store:
        for tokens in family():
            store.space(identity()).save(tokens, pages(store, tokens))
        export_bundle(store, identity(), tmp_path / "x.kvb")
    assert take_in(tmp_path / "b", tmp_path / "x.kvb").stored == 11


def test_what_was_said_of_a_block_comes_along(tmp_path: Path) -> None:
    tokens, extras, clock = prompt(1, 3), {1: b"an image"}, Clock()
    scores = [np.full(5, n, np.uint8) for n in range(3)]
    with Store(settings(tmp_path / "a"), clock=clock) as store:
        space = store.space(identity())
        space.save(
            tokens,
            KeyedPages(space, tokens, fidelity=ROUGH, extras=extras),
            ttl_s=100.0,
            tags=["contract"],
            fidelity=ROUGH,
            attachments={"scores": scores},
            extras=extras,
        )
        export_bundle(store, identity(), tmp_path / "x.kvb")
    clock.advance(40)
    with Store(settings(tmp_path / "b"), clock=clock) as store, Bundle(tmp_path / "x.kvb") as file:
        assert import_bundle(store, file, clock=clock).stored == 3
        space = store.space(identity())
        plan = space.match(tokens, extras=extras)
        assert (plan.tokens, plan.fidelity) == (3 * STEP, ROUGH)
        with space.hold(plan) as hit:
            found = KeyedPages(space, tokens, fidelity=ROUGH, extras=extras)
            assert hit.load(found) == 3 * STEP
            found.check(3 * STEP, ROUGH)
            assert hit.attachments(2)["scores"].tolist() == [2] * 5
        clock.advance(59)
        assert space.match(tokens, extras=extras).tokens == 3 * STEP
        clock.advance(2)
        assert space.match(tokens, extras=extras).tokens == 0
        assert space.match(tokens).tokens == 0


def test_tags_that_came_along_can_be_dropped(tmp_path: Path) -> None:
    fill(tmp_path / "a", [prompt(1, 3)], tags=["contract"])
    take_in(tmp_path / "b", export(tmp_path / "a", tmp_path / "x.kvb"))
    with inspect(settings(tmp_path / "b")) as store:
        assert store.space(identity()).drop(tag="contract").blocks == 3


def test_what_has_expired_on_the_way_is_not_stored(tmp_path: Path) -> None:
    clock = Clock()
    with Store(settings(tmp_path / "a"), clock=clock) as store:
        tokens = prompt(1, 3)
        store.space(identity()).save(tokens, pages(store, tokens), ttl_s=100.0)
        export_bundle(store, identity(), tmp_path / "x.kvb")
    assert take_in(tmp_path / "b", tmp_path / "x.kvb") == Imported(3, 0, 0, 3, 0)


def test_a_bundle_larger_than_the_memory_at_hand_arrives_whole(tmp_path: Path) -> None:
    prompts = [prompt(n, 30) for n in range(3)]
    fill(tmp_path / "a", prompts)
    file = export(tmp_path / "a", tmp_path / "x.kvb")
    assert file.stat().st_size > 5 * 2 * MIB
    assert take_in(tmp_path / "b", file).stored == 90
    assert [restored(tmp_path / "b", each) // STEP for each in prompts] == [30, 30, 30]


def test_a_bundle_larger_than_the_store_is_refused(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="raise the setting disk"):
        take_in(tmp_path / "b", bundle, disk=1 * MIB)


def test_what_finds_no_room_is_counted(tmp_path: Path) -> None:
    tokens = prompt(1, 58, layout=LATENT)
    fill(tmp_path / "a", [tokens], codec="plane-huff", who=identity(LATENT))
    file = export(tmp_path / "a", tmp_path / "x.kvb", identity(LATENT))
    done = take_in(tmp_path / "b", file, disk=6 * MIB)
    length = restored(tmp_path / "b", tokens, who=identity(LATENT))
    # closing may swap the last block on disk for one that was still waiting for room
    assert done.stored - 2 <= length // LATENT.block_tokens <= done.stored
    assert 30 <= done.stored < 58
    assert done.stored + done.refused == done.blocks == 58


def test_a_block_that_lacks_a_part_stays_behind(tmp_path: Path) -> None:
    who, tokens = identity(WINDOW), prompt(1, 4, layout=WINDOW)
    with Store(settings(tmp_path / "a")) as store:
        space = store.space(who)
        space.save(tokens, pages(store, tokens, who=who))
        index = store.collect(who)
        assert len(index) == 4
        space.drop(blocks=[chain(who.root, tokens, STEP)[2]])
        assert len(store.collect(who)) == 2
        assert len(list(index)) == 2


def test_blocks_of_an_engine_without_a_digest_cannot_be_carried(tmp_path: Path) -> None:
    who = identity(weights=private_weights())
    with Store(settings(tmp_path / "a")) as store:
        tokens = prompt(1, 2)
        store.space(who).save(tokens, pages(store, tokens, who=who))
        with pytest.raises(BundleError, match="private"):
            export_bundle(store, who, tmp_path / "x.kvb")
    assert not (tmp_path / "x.kvb").exists()


def test_a_bundle_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "x.kvb"
    path.write_text("an older one")
    with pytest.raises(KeyboardInterrupt), new_bundle(path, identity(), replace=True):
        assert len(list(tmp_path.iterdir())) == 2
        raise KeyboardInterrupt
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [
        ("x.kvb", "an older one")
    ]


def test_a_place_that_cannot_be_written_is_a_bundle_error(stored: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="cannot write"):
        export(stored, tmp_path / "missing" / "x.kvb")


def test_a_store_that_writes_nothing_takes_no_bundle(bundle: Path, tmp_path: Path) -> None:
    unwritten = replace(settings(tmp_path / "b"), write="none")
    with Store(unwritten) as store, Bundle(bundle) as file, pytest.raises(ArgumentError):
        import_bundle(store, file)


def test_progress_ends_at_the_end(stored: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    with inspect(settings(stored)) as store:
        export_bundle(
            store, identity(), tmp_path / "x.kvb", progress=lambda *step: seen.append(step)
        )
    assert seen == [(n, 11) for n in range(1, 12)]
    size = (tmp_path / "x.kvb").stat().st_size
    with Bundle(tmp_path / "x.kvb") as file:
        file.check(lambda *step: seen.append(step))
        assert seen[-1] == (size - 44, size)
        assert host_bytes_for(file.block_bytes) >= 4 * file.block_bytes
