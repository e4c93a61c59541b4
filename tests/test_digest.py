"""Digests of weights: every byte counts, and an unchanged file is read once."""

import os
from pathlib import Path

import pytest
import torch

from kvstrata.kvstore import digest, digest_cache
from kvstrata.kvstore.digest import Trace, of_adapter, of_files, of_tensors, sampled
from kvstrata.kvstore.digest_cache import DigestCache, Stamp
from kvstrata.kvstore.errors import IdentityError

LATER = 1 << 62  # a time at which every file has settled
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


@pytest.fixture
def cache(tmp_path: Path) -> DigestCache:
    return DigestCache(tmp_path / "cache" / "digests.json", clock_ns=lambda: LATER)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A directory with two shards, and files that are no weights."""
    directory = tmp_path / "model"
    directory.mkdir()
    for number, name in enumerate(SHARDS):
        (directory / name).write_bytes(bytes([number]) * 100_000)
    (directory / "config.json").write_text("{}")
    return directory


class Reads:
    """Counts the bytes that are really read."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []

    def __call__(self, done: int, total: int) -> None:
        self.calls.append((done, total))


def test_a_digest_has_64_digits(model: Path, cache: DigestCache) -> None:
    assert len(bytes.fromhex(of_files(model, cache=cache))) == 32


@pytest.mark.parametrize("place", [0, 50_000, 99_999])
@pytest.mark.parametrize("name", SHARDS)
def test_every_byte_of_every_shard_counts(
    model: Path, cache: DigestCache, name: str, place: int
) -> None:
    before = of_files(model, cache=cache)
    with (model / name).open("r+b") as file:
        file.seek(place)
        file.write(b"x")
    assert of_files(model, cache=cache) != before


def test_bytes_that_move_from_one_shard_to_the_next_count(model: Path, cache: DigestCache) -> None:
    before = of_files(model, cache=cache)
    first, second = ((model / name).read_bytes() for name in SHARDS)
    (model / SHARDS[0]).write_bytes(first + second[:1])
    (model / SHARDS[1]).write_bytes(second[1:])
    assert of_files(model, cache=cache) != before


def test_a_shard_that_is_added_renamed_or_exchanged_counts(model: Path, cache: DigestCache) -> None:
    found = {of_files(model, cache=cache)}
    (model / SHARDS[0]).rename(model / "a.safetensors")
    found.add(of_files(model, cache=cache))
    (model / SHARDS[1]).rename(model / SHARDS[0])
    (model / "a.safetensors").rename(model / SHARDS[1])
    found.add(of_files(model, cache=cache))
    (model / "more.gguf").write_bytes(b"")
    found.add(of_files(model, cache=cache))
    assert len(found) == 4


def test_files_that_are_no_weights_do_not_count(model: Path, cache: DigestCache) -> None:
    before = of_files(model, cache=cache)
    (model / "config.json").write_text("[]")
    assert of_files(model, cache=cache) == before


def test_a_shard_stands_for_all_shards(model: Path, cache: DigestCache) -> None:
    assert {of_files(model / name, cache=cache) for name in SHARDS} == {
        of_files(model, cache=cache)
    }
    (model / SHARDS[1]).unlink()
    with pytest.raises(IdentityError, match="cannot read"):
        of_files(model / SHARDS[0], cache=cache)


def test_one_file_keeps_its_digest_under_another_name(tmp_path: Path, cache: DigestCache) -> None:
    (tmp_path / "a.gguf").write_bytes(b"weights")
    before = of_files(tmp_path / "a.gguf", cache=cache)
    (tmp_path / "a.gguf").rename(tmp_path / "b.gguf")
    assert of_files(tmp_path / "b.gguf", cache=cache) == before
    assert of_files(tmp_path, cache=cache) == before


def test_links_are_followed(model: Path, tmp_path: Path, cache: DigestCache) -> None:
    linked = tmp_path / "snapshot"
    linked.mkdir()
    for name in SHARDS:
        (linked / name).symlink_to(model / name)
    assert of_files(linked, cache=cache) == of_files(model, cache=cache)


@pytest.mark.parametrize("name", ["", "missing", "missing.safetensors"])
def test_what_has_no_weights_has_no_digest(tmp_path: Path, cache: DigestCache, name: str) -> None:
    with pytest.raises(IdentityError):
        of_files(tmp_path / name, cache=cache)


def test_progress_ends_at_all_bytes_whether_read_or_remembered(
    model: Path, cache: DigestCache
) -> None:
    for _ in range(2):
        seen = Reads()
        of_files(model, cache=cache, progress=seen)
        assert seen.calls[-1] == (200_000, 200_000)
        assert seen.calls == sorted(seen.calls)


def test_the_second_reading_reads_nothing(model: Path, cache: DigestCache) -> None:
    first, second = Reads(), Reads()
    before = of_files(model, cache=cache, progress=first)
    assert of_files(model, cache=cache, progress=second) == before
    assert len(second.calls) < len(first.calls)


def test_a_file_written_back_with_its_old_time_is_read_again(
    model: Path, cache: DigestCache
) -> None:
    before = of_files(model, cache=cache)
    status = (model / SHARDS[0]).stat()
    (model / SHARDS[0]).write_bytes(b"y" * 100_000)
    os.utime(model / SHARDS[0], ns=(status.st_atime_ns, status.st_mtime_ns))
    assert of_files(model, cache=cache) != before


def test_a_file_put_in_the_place_of_another_is_read(model: Path, cache: DigestCache) -> None:
    before = of_files(model, cache=cache)
    other = model / "other"
    other.write_bytes(b"y" * 100_000)
    other.replace(model / SHARDS[0])
    assert of_files(model, cache=cache) != before


STAMP = Stamp(1, 2, 3, 4_000_000_000, 5_000_000_000)


@pytest.mark.parametrize("field", Stamp.__slots__)
def test_a_stamp_that_differs_anywhere_is_another_file(cache: DigestCache, field: str) -> None:
    cache.put(STAMP, bytes(32))
    fields = {name: getattr(STAMP, name) + (name == field) for name in Stamp.__slots__}
    assert cache.get(STAMP) == bytes(32)
    assert cache.get(Stamp(**fields)) is None


@pytest.mark.parametrize("now", [3, 6_999_999_999])
def test_a_file_that_may_still_change_unseen_is_not_remembered(tmp_path: Path, now: int) -> None:
    cache = DigestCache(tmp_path / "digests.json", clock_ns=lambda: now)
    cache.put(STAMP, bytes(32))
    assert cache.get(STAMP) is None


def test_what_is_remembered_is_bounded_the_oldest_goes(
    cache: DigestCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digest_cache, "_ENTRIES", 4)
    stamps = [Stamp(1, inode, 3, 4, 5) for inode in range(6)]
    for stamp in stamps:
        cache.put(stamp, bytes([stamp.inode]) * 32)
    found = [cache.get(stamp) for stamp in stamps]
    assert found == [None, None, *(bytes([n]) * 32 for n in range(2, 6))]


def test_what_is_remembered_is_the_owners_alone(cache: DigestCache, tmp_path: Path) -> None:
    cache.put(STAMP, bytes(32))
    path = tmp_path / "cache" / "digests.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "damage",
    [
        b"", b"{", b"[[]]", b"null", b"\xff", b"[" * 100_000,
        b'[{"stamp":{"device":1,"inode":2,"size":3,"mtime_ns":4000000000,"ctime_ns":5000000000},'
        b'"sha256":"00"}]',
    ],
)  # fmt: skip
def test_a_damaged_memory_costs_a_reading(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "digests.json"
    cache = DigestCache(path, clock_ns=lambda: LATER)
    path.write_bytes(damage)
    path.chmod(0o600)
    assert cache.get(STAMP) is None
    cache.put(STAMP, b"d" * 32)
    assert cache.get(STAMP) == b"d" * 32


def test_a_memory_that_others_may_write_is_not_believed(cache: DigestCache, tmp_path: Path) -> None:
    cache.put(STAMP, bytes(32))
    (tmp_path / "cache" / "digests.json").chmod(0o666)
    assert cache.get(STAMP) is None


def test_a_memory_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = DigestCache(tmp_path / "file" / "digests.json", clock_ns=lambda: LATER)
    cache.put(STAMP, bytes(32))
    assert cache.get(STAMP) is None


def test_the_users_cache_directory_is_used_where_no_other_is_named(
    model: Path, tmp_path: Path, cache: DigestCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    for name in SHARDS:
        os.utime(model / name, (1e9, 1e9))
    assert of_files(model) == of_files(model, cache=cache)


def test_a_sampled_digest_says_so_and_never_equals_a_full_one(
    model: Path, cache: DigestCache
) -> None:
    found = sampled(model)
    assert found.startswith("sampled:")
    assert found == sampled(model)
    (model / SHARDS[0]).write_bytes(b"y" * 100_000)
    assert sampled(model) != found
    assert not of_files(model, cache=cache).startswith("sampled:")


def test_a_sampled_digest_reads_beginning_end_and_between(tmp_path: Path) -> None:
    path = tmp_path / "big.gguf"
    path.touch()
    os.truncate(path, 1 << 30)
    found = {sampled(path)}
    for place in (0, (1 << 30) - 1, ((1 << 30) - 65_536) * 32 // 63 + 9):
        with path.open("r+b") as file:
            file.seek(place)
            file.write(b"x")
        found.add(sampled(path))
    assert len(found) == 4
    with pytest.raises(IdentityError):
        sampled(tmp_path / "missing.gguf")


def test_an_adapters_scale_counts_as_much_as_its_weights(
    tmp_path: Path, cache: DigestCache
) -> None:
    weights, config = tmp_path / "adapter_model.safetensors", tmp_path / "adapter_config.json"
    weights.write_bytes(b"lora")
    config.write_text('{"lora_alpha": 16}')
    found = {of_adapter(tmp_path, cache=cache)}
    config.write_text('{"lora_alpha": 32}')
    found.add(of_adapter(tmp_path, cache=cache))
    weights.write_bytes(b"more")
    found.add(of_adapter(tmp_path, cache=cache))
    assert len(found | {of_files(tmp_path, cache=cache)}) == 4


def tensors(dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Some weights, of all shapes."""
    return {
        "b": torch.arange(12).reshape(3, 4).to(dtype),
        "a": torch.zeros((), dtype=dtype),
        "c": torch.zeros(0, 3, dtype=dtype),
    }


DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.int8, torch.bool]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tensors_of_every_dtype_have_a_digest(dtype: torch.dtype) -> None:
    assert of_tensors(tensors(dtype).items()) == of_tensors(reversed(tensors(dtype).items()))


def test_every_value_name_shape_and_dtype_of_tensors_counts() -> None:
    changed = tensors()
    changed["b"][2, 3] += 1
    renamed = tensors()
    renamed["d"] = renamed.pop("a")
    reshaped = tensors()
    reshaped["b"] = reshaped["b"].reshape(4, 3)
    less = tensors()
    del less["c"]
    zeros = {"a": torch.zeros(4)}, {"a": torch.zeros(4, dtype=torch.int32)}
    every = [tensors(), changed, renamed, reshaped, less, tensors(torch.float16), *zeros]
    assert len({of_tensors(each.items()) for each in every}) == len(every)


def test_how_a_tensor_lies_in_memory_does_not_count() -> None:
    turned = torch.arange(12.0).reshape(4, 3).T.contiguous().T
    assert of_tensors([("a", turned)]) == of_tensors([("a", turned.contiguous())])


def test_a_large_tensor_is_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = of_tensors([("a", torch.arange(1000))])
    seen = Reads()
    monkeypatch.setattr(digest, "_READ_BYTES", 800)
    assert of_tensors([("a", torch.arange(1000))], progress=seen) == whole
    assert seen.calls == [(800 * (n + 1), 8000) for n in range(10)]


class Wrapped(torch.Tensor):
    """A tensor that computes with more than its bytes, as quantised ones do."""


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(3).as_subclass(Wrapped),
        torch.zeros(3, device="meta"),
        torch.zeros(3).to_sparse(),
    ],
    ids=["subclass", "meta", "sparse"],
)
def test_a_tensor_whose_bytes_are_not_all_is_refused(tensor: torch.Tensor) -> None:
    with pytest.raises(IdentityError, match="a "):
        of_tensors([("a", tensor)])


def test_a_model_without_tensors_has_no_digest() -> None:
    with pytest.raises(IdentityError):
        of_tensors([])


def layer() -> torch.nn.Linear:
    """A small model."""
    return torch.nn.Linear(3, 3)


def test_untouched_tensors_keep_their_trace() -> None:
    model = layer()
    trace = Trace(model.parameters())
    model(torch.zeros(3))
    assert trace.holds(model.parameters())


def test_every_way_to_change_weights_that_torch_sees_is_noticed() -> None:
    model = layer()
    with torch.no_grad():
        trace = Trace(model.parameters())
        model.weight.add_(1)
        assert not trace.holds(model.parameters())
        trace = Trace(model.parameters())
        model.load_state_dict(layer().state_dict())
        assert not trace.holds(model.parameters())
        trace = Trace(model.parameters())
        model.weight = torch.nn.Parameter(torch.zeros(3, 3))
        assert not trace.holds(model.parameters())
        trace = Trace(model.parameters())
        model.weight.data = torch.zeros(3, 3)
        assert not trace.holds(model.parameters())
        trace = Trace(model.parameters())
        model.register_parameter("more", torch.nn.Parameter(torch.zeros(1)))
        assert not trace.holds(model.parameters())


def test_a_tensor_that_took_the_place_of_another_is_noticed() -> None:
    trace = Trace([torch.zeros(3)])
    assert not trace.holds([torch.zeros(3)])


def test_a_write_through_data_is_not_noticed() -> None:
    """The documented limit; should torch begin to count these writes, the warning can go."""
    model = layer()
    trace = Trace(model.parameters())
    model.weight.data.add_(1)
    assert trace.holds(model.parameters())


def test_weights_made_for_inference_only_have_a_trace_too() -> None:
    with torch.inference_mode():
        weight = torch.zeros(3)
    assert Trace([weight]).holds([weight])
