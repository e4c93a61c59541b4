"""Blocks of one identity in one checked file, to be carried to another store (docs/format.md).

    with new_bundle(path, identity) as writer:        there whole, or not at all
        writer.add(frames)
    with Bundle(path) as bundle:                      parsed without trust
        bundle.check()
        for block in bundle.blocks(): ...

A reader recomputes every key from the identity down, so a wrong text under a right key cannot be;
that the KV is what the model computes for the text, nobody can check but whoever made the file.
"""

import os
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from io import BufferedReader, BufferedWriter
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np

from ..compression.codec import Block
from .collecting import Frames
from .errors import BundleError, CodecError, FrameError, IdentityError
from .files import Bytes
from .frame import FIXED_BYTES, Header, encode, parse
from .identity import Identity
from .keys import KeyKind, tenant_id
from .layout import Layout, Part
from .meta import Meta
from .payload import Sealed, decode, meta_of, verify_payload
from .segments import ROW_BYTES
from .slab import SLOT_BYTES

Progress = Callable[[int, int], None]
"""Done, in all: bytes where a file is read, blocks where one is written."""

MAGIC = b"KVBUNDLE"
VERSION = 1

_HEAD = struct.Struct("<8sHHI")
_RECORD = struct.Struct("<IQ")
_SUM_BYTES = 32
_MAX_IDENTITY = 1 << 20
_MAX_BLOCK = 1 << 30  # decoded
_MAX_AT_REST = 2 << 30


class BundleBlock(NamedTuple):
    """One block of a bundle; ``past`` counts the blocks before it in its prompt."""

    key: bytes
    past: int
    meta: Meta
    frames: Frames

    @property
    def nbytes(self) -> int:
        """Payload bytes of all frames."""
        return sum(frame.header.payload_bytes for frame in self.frames)


class BundleWriter:
    """Writes a bundle, block by block, to a file that ``new_bundle`` made."""

    def __init__(self, file: BufferedWriter, identity: Identity) -> None:
        self._file = file
        self._sum = sha256()
        self.frames = self.nbytes = 0
        text = identity.to_json()
        self._write(_HEAD.pack(MAGIC, VERSION, 0, len(text)) + text)

    def add(self, frames: Frames) -> None:
        """Append a block; its parent was added before, as ``Collection`` gives them."""
        for header, payload in frames:
            here = encode(header._replace(extents=()))
            self._write(_RECORD.pack(len(here), header.payload_bytes) + here)
            for piece in payload:
                self._write(piece.data)
        self.frames += len(frames)

    def finish(self) -> None:
        """Write the end; nothing is added after it."""
        self._write(_RECORD.pack(0, self.frames))
        self._write(self._sum.digest())

    def _write(self, data: bytes | memoryview) -> None:
        self._sum.update(data)
        self._file.write(data)
        self.nbytes += len(data)


@contextmanager
def new_bundle(path: Path, identity: Identity, *, replace: bool = False) -> Iterator[BundleWriter]:
    """A bundle that is written beside its place and gets its name when it is whole and durable.

    After an error in the block there is no file.  Raises BundleError where the file cannot be
    written, or is there and ``replace`` does not allow for it.
    """
    if identity.is_private:
        raise BundleError("blocks of a private identity cannot be carried elsewhere")
    if _block_bytes(identity.layout) > _MAX_BLOCK:
        raise BundleError(f"blocks of more than {_MAX_BLOCK} bytes cannot be carried")
    if path.exists() and not replace:
        raise BundleError(f"{path} is there already; name another file, or replace it (--force)")
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with _foreign(f"cannot write {path}"):
            fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as file:
                writer = BundleWriter(file, identity)
                yield writer
                writer.finish()
                file.flush()
                os.fsync(file.fileno())
            part.rename(path)
            _sync_directory(path.absolute().parent)
    finally:
        part.unlink(missing_ok=True)


class Bundle:
    """A bundle file, open for reading; a context manager.  One thread at a time.

    Every method raises BundleError for a file that cannot be read or has any flaw.
    """

    def __init__(self, path: Path) -> None:
        with ExitStack() as undo:
            with _foreign(f"cannot read {path}"):
                self._file = undo.enter_context(path.open("rb"))
                self.nbytes = os.fstat(self._file.fileno()).st_size
            self.identity = _read_identity(_Stream(self._file, self.nbytes))
            undo.pop_all()

    @property
    def block_bytes(self) -> int:
        """Bytes of one block, decoded, all parts together."""
        return _block_bytes(self.identity.layout)

    def blocks(self, progress: Progress | None = None) -> Iterator[BundleBlock]:
        """Every block, keys and checksums verified; the file's checksum comes after the last.

        Who must not act on a damaged file calls ``check`` first.
        """
        stream = _Stream(self._file, self.nbytes)
        reader = _Reader(stream, _read_identity(stream))
        while (block := reader.block()) is not None:
            yield block
            if progress is not None:
                progress(stream.at, self.nbytes)
        stream.end()

    def check(self, progress: Progress | None = None) -> int:
        """Read and decode everything; how many blocks there are."""
        scratch: dict[int, Bytes] = {}
        count = 0
        for block in self.blocks(progress):
            for frame in block.frames:
                group = frame.header.group
                size = self.identity.layout.frame_bytes(group, frame.header.tokens)
                if group not in scratch:
                    scratch[group] = np.empty(size, np.uint8)
                decode_into(frame, self.identity.layout, scratch[group])
            count += 1
        return count

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()


def decode_into(frame: Sealed, layout: Layout, target: Bytes) -> None:
    """Decode a frame's bytes; BundleError where they are not of its layout."""
    header, payload = frame
    shape = layout.frame_shape(header.group, header.tokens)
    try:
        decode(header, payload, Block(layout.groups[header.group], shape, target))
    except (CodecError, FrameError) as error:
        raise BundleError(f"a block of the bundle does not decode: {error}") from error


class _Stream:
    """A file from its beginning on, hashed as it is read."""

    def __init__(self, file: BufferedReader, nbytes: int) -> None:
        self._file = file
        self._file.seek(0)
        self._sum = sha256()
        self._nbytes = nbytes
        self.at = 0

    def take(self, nbytes: int) -> Bytes:
        """So many bytes; nothing is allocated for bytes that are not there."""
        if nbytes > self._nbytes - self.at:
            raise BundleError("the bundle is cut off; have it made or copied again")
        data = np.empty(nbytes, np.uint8)
        with _foreign("cannot read the bundle"):
            if self._file.readinto(data.data) != nbytes:
                raise BundleError("the bundle became shorter while it was read")
        self._sum.update(data.data)
        self.at += nbytes
        return data

    def end(self) -> None:
        """Raise BundleError unless the checksum, and nothing else, is left."""
        expected = self._sum.digest()
        if self.take(_SUM_BYTES).tobytes() != expected:
            raise BundleError("the bundle's checksum is wrong; have it made or copied again")
        if self.at != self._nbytes:
            raise BundleError(f"{self._nbytes - self.at} bytes follow the bundle's end")


def _read_identity(stream: _Stream) -> Identity:
    magic, version, flags, length = _HEAD.unpack(stream.take(_HEAD.size).data)
    if magic != MAGIC:
        raise BundleError("this is no bundle of kvstrata")
    if version != VERSION or flags:
        raise BundleError(f"a bundle of version {version}, flags {flags}: not of this version")
    if not 1 <= length <= _MAX_IDENTITY:
        raise BundleError(f"an identity of {length} bytes cannot be")
    try:
        identity = Identity.from_json(stream.take(length).tobytes())
    except IdentityError as error:
        raise BundleError(f"the bundle's identity: {error}") from error
    if identity.is_private or _block_bytes(identity.layout) > _MAX_BLOCK:
        raise BundleError("the bundle's identity is private, or its blocks are too large")
    return identity


class _Reader:
    """Blocks from behind the head on, each held against the identity and the block before it."""

    def __init__(self, stream: _Stream, identity: Identity) -> None:
        self._stream = stream
        self._identity = identity
        self._parts = identity.layout.parts
        self._tenant = tenant_id(identity.tenant)
        self._root = identity.root
        self._path: list[bytes] = []  # keys from the first block to the last one that was read
        self._count = 0

    def block(self) -> BundleBlock | None:
        """The next block, None behind the last."""
        frames: list[Sealed] = []
        metas: list[Meta] = []
        left = _MAX_AT_REST
        for part in self._parts:
            length, payload_bytes = _RECORD.unpack(self._stream.take(_RECORD.size).data)
            if not length and not frames:
                if payload_bytes != self._count:
                    raise BundleError(
                        f"{self._count} frames in a bundle that claims another number"
                    )
                return None
            left -= payload_bytes
            if not FIXED_BYTES <= length <= SLOT_BYTES or left < 0:
                raise BundleError(f"frame {self._count} cannot have the length that it claims")
            try:
                frame, meta = _read_frame(self._stream, length, payload_bytes)
                self._check(frame.header, part)
            except FrameError as error:
                raise BundleError(f"frame {self._count} of the bundle: {error}") from error
            frames.append(frame)
            metas.append(meta)
            self._count += 1
        self._walk([frame.header for frame in frames])
        return BundleBlock(self._path[-1], len(self._path) - 1, metas[0], tuple(frames))

    def _check(self, header: Header, part: Part) -> None:
        """Raise FrameError unless a frame is of this identity and this part."""
        layout = self._identity.layout
        shards = layout.group_shards(part.group)
        expected = self._root[:16], self._tenant, KeyKind.BLOCK, layout.block_tokens, shards, part
        h = header
        if (h.root, h.tenant, h.kind, h.tokens, h.shards, h.part) != expected:
            raise FrameError("it is of another identity, layout or part than its place asks for")

    def _walk(self, headers: Sequence[Header]) -> None:
        """Step from the last block to this one: back to its parent, then on to itself."""
        key, parent = headers[0].key, headers[0].parent
        if any((each.key, each.parent) != (key, parent) for each in headers):
            raise BundleError("a block of the bundle lacks a part")
        past, rest = divmod(headers[0].position, self._identity.layout.block_tokens)
        if rest or past > len(self._path):
            raise BundleError("a block of the bundle does not follow the blocks before it")
        del self._path[past:]
        if parent != (self._path[-1] if self._path else self._root):
            raise BundleError("a block of the bundle has a parent that is not before it")
        self._path.append(key)


def _read_frame(stream: _Stream, length: int, payload_bytes: int) -> tuple[Sealed, Meta]:
    """A frame whose checksums and key are right; raises FrameError."""
    raw = stream.take(length).tobytes()
    header = parse(raw)
    ends = FIXED_BYTES + ROW_BYTES * len(header.segments) + len(header.inline)
    if ends != length or header.payload_bytes != payload_bytes:
        raise FrameError("the header has another length than the bundle says")
    payload = [stream.take(payload_bytes)]
    verify_payload(header, payload)
    return Sealed(header, payload), meta_of(header, payload)


def _block_bytes(layout: Layout) -> int:
    return layout.token_bytes * layout.block_tokens


@contextmanager
def _foreign(what: str) -> Iterator[None]:
    """Errors of the file system are ours."""
    try:
        yield
    except OSError as error:
        raise BundleError(f"{what}: {error.strerror}") from error


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
