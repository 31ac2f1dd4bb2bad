"""Every error mneme raises on purpose; the last sentence of each message is the remedy."""

__all__ = [
    "CacheClosedError",
    "CheckpointError",
    "CodecError",
    "CorruptCacheError",
    "EmbedderDimensionError",
    "EmbedderMismatchError",
    "EmbeddingError",
    "IndexBackendUnavailableError",
    "MnemeError",
    "MultiProcessLockError",
    "NamespaceQuotaExceededError",
    "NamespaceRequiredError",
    "QuantizationError",
    "SchemaMigrationError",
    "StoreBackendError",
]


class MnemeError(Exception):
    """The parent of them all: ``except MnemeError`` catches what mneme itself refuses."""


class EmbedderMismatchError(MnemeError):
    """A store was filled by another embedder than the one that opens it."""


class EmbedderDimensionError(MnemeError):
    """A vector has another shape than the embedder's ``dim`` promises."""


class EmbeddingError(MnemeError):
    """The embedder failed, was late, or gave a vector that has no direction."""


class CorruptCacheError(MnemeError):
    """A file is not a mneme cache, or is one that can no longer be read."""


class SchemaMigrationError(MnemeError):
    """A file was written by a version of mneme with another layout."""


class CacheClosedError(MnemeError):
    """The cache was used after `close`."""


class CheckpointError(MnemeError):
    """An archive cannot be written or read."""


class CodecError(MnemeError):
    """A response cannot be stored and read back equal."""


class IndexBackendUnavailableError(MnemeError):
    """The index backend that was asked for is not installed."""


class StoreBackendError(MnemeError):
    """
    The store behind the cache is down, full, read-only or late.

    ``is_away``: a server gave no answer at all. Lookups leave it alone for a while.
    """

    is_away: bool = False


class NamespaceQuotaExceededError(MnemeError):
    """A namespace whose quota is zero was asked to keep something."""


class NamespaceRequiredError(MnemeError):
    """``require_namespace=True`` and the call was made outside any namespace."""


class QuantizationError(MnemeError):
    """Vectors cannot be kept in the dtype that was asked for."""


class MultiProcessLockError(MnemeError):
    """Another process holds the file for longer than the store waits."""
