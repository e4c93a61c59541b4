"""Who may share KV: everything that decides the bytes which a model computes for a prompt.

The identity is the root of every key chain.  Two runs share blocks only if all fields agree;
what a field means is its caller's business, that it takes part is this file's.
"""

import re
import secrets
from dataclasses import dataclass, fields
from typing import Self

import msgspec

from . import keys
from .errors import IdentityError
from .layout import Layout

_WEIGHTS = re.compile(r"(sampled:)?[0-9a-f]{64}|private:[0-9a-f]{32,64}")
_TEXTS = ("config", "kv_scales", "adapter", "producer", "tenant", "salt")
_TEXT_BYTES = 4096
_EPOCHS = 1 << 64


@dataclass(frozen=True, slots=True)
class Identity:
    """Everything that must agree before two runs may share KV.

    ``weights``   digest of all weight bytes (``digest.py``), or ``private_weights()`` while it is
                  not known; never a model's name
    ``layout``    shapes, dtypes, rope, block size and shards
    ``config``    digest of the model's configuration and quantisation
    ``kv_scales`` the scales of a quantised KV cache by value, ``""`` where there are none
    ``adapter``   digest of the LoRA weights, never its name, ``""`` for none
    ``producer``  engine, attention backend, compute dtype; ``""`` shares across producers
    ``epoch``     raised when weights change in place (RL training), 0..2**64-1
    ``tenant``    whose blocks these are, for quotas and deletion
    ``salt``      keeps those apart who must not learn of each other's blocks

    Raises ``IdentityError`` for a value that cannot tell models apart.
    """

    weights: str
    layout: Layout
    config: str
    kv_scales: str = ""
    adapter: str = ""
    producer: str = ""
    epoch: int = 0
    tenant: str = ""
    salt: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.weights, str) or not _WEIGHTS.fullmatch(self.weights):
            raise IdentityError(
                f"weights={self.weights!r} is no digest; take it from kvstrata.kvstore.digest, or "
                "private_weights() while it is not known (a model's name does not tell two "
                "versions of its weights apart)"
            )
        if not isinstance(self.layout, Layout):
            raise IdentityError(f"layout={self.layout!r} is not a Layout")
        for name in _TEXTS:
            _check_text(name, getattr(self, name))
        if not self.config:
            raise IdentityError("config is empty; it must be a digest of the configuration")
        if type(self.epoch) is not int or not 0 <= self.epoch < _EPOCHS:
            raise IdentityError(f"epoch={self.epoch!r} is not an integer in 0..{_EPOCHS - 1}")

    @property
    def is_private(self) -> bool:
        """Whether the weights are not known yet: such a space stays in this process's memory."""
        return self.weights.startswith("private:")

    @property
    def root(self) -> bytes:
        """h0, the root of this identity's key chains, 32 bytes."""
        return keys.root(self)

    def fields(self) -> list[bytes]:
        """What enters the root: every field as bytes, in the order of declaration."""
        return [_field_bytes(getattr(self, f.name)) for f in fields(self)]

    def differences(self, other: Self) -> tuple[str, ...]:
        """Names of the fields in which the two differ; inside the layout as ``layout.dtype``."""
        names = [f.name for f in fields(self) if getattr(self, f.name) != getattr(other, f.name)]
        return tuple(
            name
            for field in names
            for name in (
                _layout_differences(self.layout, other.layout) if field == "layout" else (field,)
            )
        )

    def to_json(self) -> bytes:
        """The identity as canonical JSON, from which ``from_json`` makes an equal one."""
        return msgspec.json.encode(self)

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """The identity that ``to_json`` wrote.

        Takes nothing else: an unknown, missing or repeated field, or another spelling, raises
        ``IdentityError``, for a field that is not understood could be what tells two models apart.
        """
        try:
            identity = msgspec.json.decode(data, type=cls)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
            raise IdentityError(f"not an identity: {exc}") from exc
        if identity.to_json() != bytes(data):
            raise IdentityError("not an identity as this version writes it")
        return identity


def private_weights() -> str:
    """Stands in for weights whose digest is not known: shared with nobody, new at every call."""
    return "private:" + secrets.token_hex(16)


def _field_bytes(value: str | int | Layout) -> bytes:
    if isinstance(value, Layout):
        return value.fingerprint().encode()
    return str(value).encode()


def _check_text(name: str, value: str) -> None:
    if not isinstance(value, str):
        raise IdentityError(f"{name}={value!r} is not text")
    try:
        size = len(value.encode())
    except UnicodeEncodeError as exc:
        raise IdentityError(f"{name} cannot be written as UTF-8: {exc}") from exc
    if size > _TEXT_BYTES:
        raise IdentityError(f"{name} has {size} bytes; at most {_TEXT_BYTES} fit")


def _layout_differences(ours: Layout, theirs: Layout) -> list[str]:
    names = [f.name for f in fields(ours) if getattr(ours, f.name) != getattr(theirs, f.name)]
    if "groups" not in names or len(ours.groups) != len(theirs.groups):
        return [f"layout.{name}" for name in names]
    pairs = list(zip(ours.groups, theirs.groups, strict=True))
    inner = [
        f.name
        for f in fields(ours.groups[0])
        if any(getattr(a, f.name) != getattr(b, f.name) for a, b in pairs)
    ]
    return [f"layout.{name}" for name in (*inner, *(n for n in names if n != "groups"))]
