"""What is found again: records that are believed, copies of one frame, orphans, and an old mark."""

import shutil
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstrata.kvstore.chains import NONE
from kvstrata.kvstore.errors import TierError
from kvstrata.kvstore.found import FID, Found, locate
from kvstrata.kvstore.frame import Header, encode, parse
from kvstrata.kvstore.mark import Mark
from kvstrata.kvstore.records import Ground, Reader
from kvstrata.kvstore.superblock import Superblock
from tests.hostile.make import PAGES, SLAB
from tests.hostile.make import slots as frames_by_hand
from tests.store import slabs
from tests.store.kit import Scene, identity, prompt, restore, save

GOOD = parse(frames_by_hand()["good-frame.frame"], pages=PAGES, slab=SLAB)
GROUND = Ground(slots=8, pages=PAGES, seed=SLAB)
OTHER = Ground(slots=8, pages=PAGES, seed=SLAB + 1)
ROOT = GOOD.parent

Record = tuple[bytes, bytes]


def key(name: int | str) -> bytes:
    """Some block's key."""
    return sha256(str(name).encode()).digest()


def header(name: int | str, *, parent: int | str | None = None, **fields: object) -> Header:
    """A first block's header, or that of the block behind ``parent``."""
    made = GOOD._replace(key=key(name), shard=0, shards=1)
    if parent is not None:
        made = made._replace(parent=key(parent), position=16)
    change: Callable[..., Header] = made._replace
    return change(**fields)


def record(
    of: Header, *, slot: int = 1, stripe: int = 0, tags: bytes = b"", seed: int = SLAB
) -> Record:
    """What the disk index says of a frame, from docs/format.md."""
    length = 192 + 40 * len(of.segments) + 8 * len(of.extents)
    value = struct.pack("<IB", slot, stripe) + encode(of, seed)[:length] + tags
    return of.key + bytes((of.group, of.shard)), value


def read(records: Iterable[Record], grounds: Sequence[Ground] = (GROUND,)) -> tuple[Found, Reader]:
    """What recovery makes of them."""
    reader = Reader(1)
    fids, values = [list(column) for column in zip(*records, strict=True)]
    reader.read(iter([(fids, values)]), dict(enumerate(grounds)))
    return reader.found(), reader


def test_a_record_says_all_that_the_header_says() -> None:
    of = header(1, generation=7, expiry=5.0, extents=((40, 1), (7, 3)))
    found, reader = read([record(of, slot=5, tags=b"one\0two")])
    (row,) = found.table
    assert (row["slot"], row["stripe"], row["generation"], row["expiry"]) == (5, 0, 7, 5.0)
    assert (row["tokens"], row["position"], row["nbytes"]) == (16, 0, GOOD.payload_bytes)
    assert (row["fidelity"], bool(row["is_first"])) == (200, True)
    assert found.owners[row["owner"]] == ROOT[:16] + GOOD.tenant
    assert found.extents.tolist() == [(40, 1), (7, 3)]
    assert found.tags_of(0) == ("one", "two")
    assert found.tagged == [0]
    assert found.fids.tolist() == [key(1) + b"\0\0"]
    assert reader.strangers == []


BAD: dict[str, Record] = {
    "under another block's name": (key(2) + b"\0\0", record(header(1))[1]),
    "under another part's name": (key(1) + b"\1\0", record(header(1))[1]),
    "in a slot that is not there": record(header(1), slot=8),
    "on a stripe that is not there": record(header(1), stripe=1),
    "of another slab": record(header(1), seed=SLAB + 1),
    "in pages that are not there": record(header(1, extents=((PAGES - 3, 4),))),
    "in fewer pages than its payload needs": record(header(1, extents=((0, 3),))),
    "in no pages": record(header(1, extents=())),
    "without a payload": record(
        header(1, extents=(), segments=GOOD.segments[:1] * 2, inline=GOOD.inline * 2)
    ),
    "with tags that are no text": record(header(1), tags=b"\xff"),
    "of nothing": (key(1) + b"\0\0", b""),
    "of zeros": (key(1) + b"\0\0", bytes(365)),
    "longer than memory": (key(1) + b"\0\0", b"\0" * 25 + b"\xff" * 340),
}


@pytest.mark.parametrize("name", BAD)
def test_a_record_that_does_not_check_out_is_a_stranger(name: str) -> None:
    good = [record(header(n), slot=n) for n in (3, 4)]
    found, reader = read([good[0], BAD[name], good[1]])
    assert found.fids.tolist() == [good[0][0], good[1][0]]
    assert found.table["slot"].tolist() == [3, 4]
    assert reader.strangers == [BAD[name][0]]


def test_frame_ids_that_were_cut_at_another_place_are_strangers() -> None:
    """End to end they are the same bytes."""
    (one, here), (two, there) = record(header(1), slot=1), record(header(2), slot=2)
    cut = (one + two)[:33], (one + two)[33:]
    found, reader = read([(cut[0], here), (cut[1], there)])
    assert len(found) == 0
    assert sorted(reader.strangers) == sorted(cut)


def test_a_torn_record_is_a_stranger_wherever_it_is_torn() -> None:
    fid, value = record(header(1))
    for length in range(len(value)):
        found, reader = read([(fid, value[:length])])
        assert len(found) == 0
        assert reader.strangers == [fid]


@given(at=st.integers(0, 372), mask=st.integers(1, 255))
def test_a_record_with_other_bytes_is_a_stranger_or_says_the_same(at: int, mask: int) -> None:
    fid, value = record(header(1))
    changed = bytearray(value)
    changed[min(at, len(value) - 1)] ^= mask
    found, _ = read([(fid, bytes(changed))])
    if len(found):  # the slot's number is not under the checksum: the slot itself has the last word
        assert changed[5:] == value[5:]
        assert found.table["slot"][0] < GROUND.slots


def test_stripes_have_seeds_of_their_own() -> None:
    here, there = record(header(1)), record(header(2), stripe=1, seed=SLAB + 1)
    found, reader = read([there, here], (GROUND, OTHER))
    assert sorted(found.table["stripe"].tolist()) == [0, 1]
    found, reader = read([there, here], (OTHER, GROUND))
    assert len(found) == 0
    assert sorted(reader.strangers) == sorted([there[0], here[0]])


def test_of_two_copies_of_a_frame_the_newer_is_kept() -> None:
    older, newer = header(1, generation=3), header(1, generation=4)
    copies = [record(newer), record(older, stripe=1, seed=SLAB + 1), record(header(2), slot=2)]
    found, _ = read(copies, (GROUND, OTHER))
    kept = found.take(np.flatnonzero(found.newest()))
    assert sorted(kept.table["generation"].tolist()) == [4, 9]


def test_a_parent_is_of_the_same_part_and_stands_before_its_child() -> None:
    headers = [
        header("root"),
        header("child", parent="root"),
        header("other group", parent="root", group=1),
        header("orphan", parent="nobody"),
        header("its own", parent="its own"),
        header("one of a ring", parent="another of it"),
        header("another of it", parent="one of a ring"),
        header("far behind", parent="child", position=160),
    ]
    found, _ = read([record(each, slot=n) for n, each in enumerate(headers)])
    assert found.parents().tolist() == [NONE, 0, NONE, NONE, NONE, NONE, NONE, 1]


names = st.lists(st.integers(0, 5), max_size=20)


@given(wanted=names, among=names)
def test_frames_are_found_among_others_that_look_alike(wanted: list[int], among: list[int]) -> None:
    def ids(of: list[int]) -> np.ndarray[tuple[int], np.dtype[np.void]]:
        """Keys that begin alike and end in a number; two of them differ in their part alone."""
        raw = [b"\x80" * 31 + bytes((n // 2, n % 2, 0)) for n in of]
        return np.frombuffer(b"".join(raw), FID)

    places = locate(ids(wanted), ids(among)).tolist()
    assert [place != NONE for place in places] == [name in among for name in wanted]
    assert all(among[p] == w for p, w in zip(places, wanted, strict=True) if p != NONE)


def test_frames_that_are_taken_bring_all_that_is_theirs() -> None:
    runs = [((0, 4),), ((8, 1), (12, 3)), ((20, 2), (30, 2))]
    headers = [header(n, extents=own, generation=n) for n, own in enumerate(runs)]
    found, _ = read([record(each, slot=n, tags=b"tag %d" % n) for n, each in enumerate(headers)])
    taken = found.take(np.array([2, 0]))
    assert [taken.tags_of(n) for n in range(2)] == [("tag 2",), ("tag 0",)]
    assert taken.table["generation"].tolist() == [2, 0]
    assert taken.ends.tolist() == [0, 2, 3]
    assert taken.extents.tolist() == [(20, 2), (30, 2), (0, 4)]
    assert taken.ids.tobytes() == b"".join(taken.fids.tolist())


def test_owners_are_counted_once() -> None:
    tenants = [bytes(16), b"\1" * 16, bytes(16)]
    found, _ = read([record(header(n, tenant=t), slot=n) for n, t in enumerate(tenants)])
    assert [found.owners[n] for n in found.table["owner"]] == [ROOT[:16] + t for t in tenants]
    assert len(found.owners) == 2


@pytest.mark.parametrize(
    ("phase", "is_trusted"), [("serving", True), ("reading", False)], ids=["serving", "reading"]
)
def test_an_index_is_trusted_once_all_of_it_was_read(
    tmp_path: Path, phase: str, is_trusted: bool
) -> None:
    mark = Mark(tmp_path)
    assert mark.is_trusted
    mark.set("serving" if phase == "serving" else "reading")
    assert Mark(tmp_path).is_trusted == is_trusted
    assert (tmp_path / "open").stat().st_mode & 0o777 == 0o600
    for _ in range(2):
        mark.clear()
        assert Mark(tmp_path).is_trusted


@pytest.mark.parametrize(
    "text",
    [b"", b"serving", b"00000000-0000-0000-0000-000000000000 serving\n", b"\xff\xfe", bytes(64)],
    ids=["empty", "no boot", "another boot", "no text", "zeros"],
)
def test_an_index_that_this_boot_did_not_leave_is_not_trusted(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "open").write_bytes(text)
    assert not Mark(tmp_path).is_trusted


def test_a_mark_that_cannot_be_set_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TierError, match="cannot write"):
        Mark(tmp_path / "nowhere").set("reading")
    (tmp_path / "open").mkdir()
    assert not Mark(tmp_path).is_trusted
    with pytest.raises(TierError, match="cannot remove"):
        Mark(tmp_path).clear()


def copied(frame: slabs.Frame, to: Path, *, generation: int) -> None:
    """Put a copy of a frame, made by someone who knows the seeds, behind all that is in a slab."""
    source = Superblock.parse((frame.directory / "headers.kvs").read_bytes()[:4096])
    target = Superblock.parse((to / "headers.kvs").read_bytes()[:4096])
    pages, last = -(-frame.payload // slabs.PAGE), target.slots - 1
    raw = (frame.directory / "headers.kvs").read_bytes()[frame.header_at :][: slabs.SLOT]
    read_as = parse(raw, pages=source.pages, slab=source.seed)
    first = target.pages - pages
    moved = read_as._replace(generation=generation, extents=((first, pages),))
    payload = (frame.directory / "pages.kvs").read_bytes()[frame.payload_at(0) :][: frame.payload]
    with (to / "headers.kvs").open("r+b") as file:
        file.seek(slabs.SLOT * (last + 1))
        file.write(encode(moved, target.seed))
    with (to / "pages.kvs").open("r+b") as file:
        file.seek(first * slabs.PAGE)
        file.write(payload)


@pytest.mark.parametrize("step", [-1, 1], ids=["the copy is older", "the copy is newer"])
def test_of_copies_on_two_stripes_the_newer_serves_and_the_older_is_wiped(
    scene: Scene, step: int
) -> None:
    scene = replace(scene, stripes=(scene.dir / "a", scene.dir / "b"))
    tokens = prompt(1, 3)
    with scene.open() as store:
        save(store.space(identity()), tokens)
        wanted = store.space(identity()).match(tokens).keys[1]
    home = next(s for s in scene.stripes if any(f.key == wanted for f in slabs.frames(s)))
    away = next(stripe for stripe in scene.stripes if stripe != home)
    original = slabs.find(home, wanted)
    copied(original, away, generation=original.generation + step)
    slabs.damage(original if step > 0 else slabs.find(away, wanted))
    shutil.rmtree(scene.dir / "index")
    with scene.open() as store:
        assert restore(store.space(identity()), tokens) == 3 * 64
        store.audit()
    left = [s for s in scene.stripes if any(f.key == wanted for f in slabs.frames(s))]
    assert left == [away if step > 0 else home]


def test_blocks_that_lost_an_ancestor_give_their_places_back(scene: Scene) -> None:
    with scene.open() as store:
        space = store.space(identity())
        for name in (1, 2):
            save(space, prompt(name, 4))
        lost = space.match(prompt(1, 4)).keys[1]
    slabs.flip(scene.dir / "headers.kvs", slabs.find(scene.dir, lost).header_at + 30)
    shutil.rmtree(scene.dir / "index")
    with scene.open() as store:
        space = store.space(identity())
        assert space.match(prompt(1, 4)).lengths == (64,)
        assert store.stats().blocks == 5
        store.audit()
        assert restore(space, prompt(2, 4)) == 4 * 64
    assert len(list(slabs.frames(scene.dir))) == 5


def test_what_is_saved_after_a_recovery_is_newer_than_all_that_was_found(scene: Scene) -> None:
    generations: list[int] = []
    for name in range(3):
        with scene.open() as store:
            save(store.space(identity()), prompt(name, 1))
            wanted = store.space(identity()).match(prompt(name, 1)).keys[0]
        generations.append(slabs.find(scene.dir, wanted).generation)
        if name == 1:
            shutil.rmtree(scene.dir / "index")
    assert generations == sorted(set(generations))
