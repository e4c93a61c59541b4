"""Every error that kvstrata raises, in one tree.

    KVStrataError
    |-- SettingsError       a setting is unknown, malformed or does not fit this machine
    |-- ArgumentError       a caller's argument cannot mean anything
    |   |-- LayoutError     a layout that cannot be stored, or not safely
    |   `-- IdentityError   a model whose KV cannot be told apart from another's
    |-- StoreBusyError      another process has this directory
    |-- StoreClosedError    a verb after close()
    |-- FrameError          bytes that are no frame of ours: torn, foreign or hostile
    |-- CodecError          a segment that does not decode
    |-- TierError           a medium failed; translated where the foreign error enters
    `-- BundleError         a bundle file that cannot be read or is not trusted

A damaged or foreign block never reaches an engine as an exception: FrameError, CodecError and
TierError are caught by name inside the store, counted, and answered as a miss.
"""


class KVStrataError(Exception):
    """Root of everything that kvstrata raises."""


class SettingsError(KVStrataError):
    """A setting is unknown, malformed or does not fit this machine."""


class ArgumentError(KVStrataError, ValueError):
    """A caller's argument cannot mean anything."""


class LayoutError(ArgumentError):
    """A layout that cannot be stored, or not safely."""


class IdentityError(ArgumentError):
    """A model whose KV cannot be told apart from another's."""


class StoreBusyError(KVStrataError):
    """Another process has this directory."""


class StoreClosedError(KVStrataError):
    """A verb was called after ``close()``."""


class FrameError(KVStrataError):
    """Bytes that are no frame of ours: torn, foreign or hostile."""


class CodecError(KVStrataError):
    """A segment that does not decode."""


class TierError(KVStrataError):
    """A medium failed."""


class BundleError(KVStrataError):
    """A bundle file that cannot be read or is not trusted."""
