"""Digests of weights: what tells two models apart, whatever they are called.

All bytes count: of the files, which are read once and known again by their stamp, or of the tensors
of a model in memory.  A digest is 64 hexadecimal digits.  ``sampled`` reads a part only and says so
in what it returns, so that it never equals a digest of everything; nothing here falls back to it.

What cannot be read whole raises ``IdentityError``; such a model stays private to its process.
"""

import os
import re
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import ref

from .digest_cache import DigestCache, Stamp
from .errors import IdentityError, SettingsError
from .keys import framed
from .settings import default_dir

if TYPE_CHECKING:
    import torch

Progress = Callable[[int, int], None]
"""Called with the bytes that are read and the bytes in all, now and then."""
NamedTensors = Iterable[tuple[str, "torch.Tensor"]]

SUFFIXES = (".safetensors", ".gguf", ".bin", ".pt", ".pth")
ADAPTER_CONFIG = "adapter_config.json"

_READ_BYTES = 8 << 20
_SAMPLES = 64
_SAMPLE_BYTES = 64 << 10
_SHARD = re.compile(r"(.*-)\d{5}-of-(\d{5})(\.\w+)")


def silent(done: int, total: int) -> None:
    """No progress."""


def of_files(path: Path, *, cache: DigestCache | None = None, progress: Progress = silent) -> str:
    """Digest of a weight file, or of every weight file in a directory, with names and sizes.

    A shard stands for all shards of its model.  A file alone keeps its digest under another name.
    ``cache`` is where digests of unchanged files come from, by default in the user's cache
    directory.
    """
    return _digest(b"weights", weight_files(path), cache, progress)


def of_adapter(path: Path, *, cache: DigestCache | None = None, progress: Progress = silent) -> str:
    """Digest of a LoRA adapter: its weight files, and the configuration that scales them."""
    config = path / ADAPTER_CONFIG
    files = [*weight_files(path), *([config] if config.is_file() else [])]
    return _digest(b"adapter", files, cache, progress)


def sampled(path: Path) -> str:
    """A digest of names, sizes and 4 MiB of each file: ``sampled:`` and 64 digits.

    Fast, and blind to a change between its samples.  Only for a user who asks for it by name.
    """
    total = sha256(framed(b"sampled"))
    for name, file in _named(weight_files(path)):
        try:
            with file.open("rb", buffering=0) as raw:
                size = os.fstat(raw.fileno()).st_size
                last = max(0, size - _SAMPLE_BYTES)
                starts = sorted({last * n // (_SAMPLES - 1) for n in range(_SAMPLES)})
                parts = [os.pread(raw.fileno(), _SAMPLE_BYTES, start) for start in starts]
        except OSError as exc:
            raise _unreadable(file, exc) from exc
        total.update(framed(name, str(size).encode(), *parts))
    return "sampled:" + total.hexdigest()


def of_tensors(tensors: NamedTensors, *, progress: Progress = silent) -> str:
    """Digest of tensors in memory: names, dtypes, shapes and all bytes, in the order of the names.

    ``tensors`` are a model's parameters and buffers, ``named_parameters()`` and
    ``named_buffers()``.  It never equals the digest of the files that they were loaded from.
    """
    import torch

    pairs = sorted(tensors, key=lambda pair: pair[0])
    if not pairs:
        raise IdentityError("a model without parameters and buffers has no digest")
    for name, tensor in pairs:
        _refuse_unreadable(name, tensor)
    size = sum(tensor.nbytes for _, tensor in pairs)
    total, done = sha256(framed(b"tensors")), 0
    for name, tensor in pairs:
        shape = ",".join(map(str, tensor.shape))
        total.update(framed(name.encode(), str(tensor.dtype).encode(), shape.encode()))
        flat = tensor.detach().reshape(-1)
        for part in torch.split(flat, _READ_BYTES // tensor.itemsize):
            total.update(part.cpu().contiguous().view(torch.uint8).numpy().data)
            done += part.nbytes
            progress(done, size)
    return total.hexdigest()


class Trace:
    """Whether tensors are the same ones and unchanged, as far as torch tells; nothing is read.

    Noticed are tensors that were replaced, moved or written in place: by optimizers, by
    ``load_state_dict``, by any operation of torch on them.  Not noticed are writes behind torch's
    back: through ``tensor.data`` or ``tensor.numpy()``, by a kernel or a process that has the
    address, and writes to tensors that were made under ``torch.inference_mode``, which count no
    versions.  Whoever writes so has to ask for a new digest.
    """

    def __init__(self, tensors: Iterable["torch.Tensor"]) -> None:
        self._seen = [(ref(t), t.data_ptr(), _version(t)) for t in tensors]

    def holds(self, tensors: Iterable["torch.Tensor"]) -> bool:
        """Whether these are the tensors that were traced, as they were then."""
        now = list(tensors)
        # the objects too: a new tensor may get the address of one that is gone
        return len(now) == len(self._seen) and all(
            seen() is tensor and address == tensor.data_ptr() and version == _version(tensor)
            for tensor, (seen, address, version) in zip(now, self._seen, strict=True)
        )


def weight_files(path: Path) -> list[Path]:
    """The weight files of a model, sorted by name: a directory's, a file's other shards, a file."""
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES and p.is_file())
        if not found:
            raise IdentityError(f"{path} has no weight files ({', '.join(SUFFIXES)})")
        return found
    shard = _SHARD.fullmatch(path.name)
    if not shard:
        return [path]
    start, count, suffix = shard.groups()
    return [
        path.with_name(f"{start}{number:05}-of-{count}{suffix}")
        for number in range(1, int(count) + 1)
    ]


def _digest(
    label: bytes, files: Sequence[Path], cache: DigestCache | None, progress: Progress
) -> str:
    try:
        size = sum(file.stat().st_size for file in files)
    except OSError as exc:
        raise _unreadable(files[0].parent, exc) from exc
    known, done = cache or _default_cache(), 0
    parts: list[bytes] = []
    for name, file in _named(files):

        def report(read: int, before: int = done) -> None:
            progress(before + read, size)

        stamp, digest = _of_file(file, known, report)
        parts += (name, str(stamp.size).encode(), digest)
        done += stamp.size
        progress(done, size)
    return sha256(framed(label, *parts)).hexdigest()


def _of_file(
    file: Path, cache: DigestCache | None, report: Callable[[int], None]
) -> tuple[Stamp, bytes]:
    """What one file is, and the SHA-256 of its bytes."""
    try:
        with file.open("rb", buffering=0) as raw:
            stamp = Stamp.of(os.fstat(raw.fileno()))
            known = cache.get(stamp) if cache else None
            if known:
                return stamp, known
            total, done = sha256(), 0
            buffer = memoryview(bytearray(_READ_BYTES))
            while count := raw.readinto(buffer):
                total.update(buffer[:count])
                done += count
                report(done)
            if done != stamp.size or Stamp.of(os.fstat(raw.fileno())) != stamp:
                raise IdentityError(f"{file} was written to while it was read; try again")
    except OSError as exc:
        raise _unreadable(file, exc) from exc
    if cache:
        cache.put(stamp, total.digest())
    return stamp, total.digest()


def _named(files: Sequence[Path]) -> list[tuple[bytes, Path]]:
    """Files with the names that enter a digest: none where one file is all there is."""
    return [(os.fsencode(file.name) if len(files) > 1 else b"", file) for file in files]


def _default_cache() -> DigestCache | None:
    try:
        return DigestCache(default_dir(os.environ) / "digests.json")
    except SettingsError:  # a user without a home reads the files at every start
        return None


def _unreadable(path: Path, exc: OSError) -> IdentityError:
    return IdentityError(f"cannot read the weights in {path}: {exc.strerror or exc}")


def _refuse_unreadable(name: str, tensor: "torch.Tensor") -> None:
    """Refuse a tensor whose bytes are not all that it computes with."""
    import torch

    is_plain = type(tensor) in (torch.Tensor, torch.nn.Parameter)
    if not is_plain or tensor.is_quantized or tensor.layout is not torch.strided:
        raise IdentityError(
            f"{name} is a {type(tensor).__name__} of layout {tensor.layout}, which keeps more than "
            "its bytes show; take the digest of the model's files"
        )
    if tensor.is_meta:
        raise IdentityError(f"{name} has no bytes yet (meta device); take the digest of the files")


def _version(tensor: "torch.Tensor") -> int:
    return 0 if tensor.is_inference() else tensor._version
