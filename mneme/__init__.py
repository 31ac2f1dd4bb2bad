"""A semantic cache that LLM applications can trust."""

from mneme.cache import AsyncSemanticCache, SemanticCache
from mneme.context import bypass, namespace, observe, refresh
from mneme.decorator import semantic_cache
from mneme.embedders import embedder_from, serialized, to_async_embedder, to_sync_embedder
from mneme.errors import (
    CacheClosedError,
    CheckpointError,
    CodecError,
    CorruptCacheError,
    EmbedderDimensionError,
    EmbedderMismatchError,
    EmbeddingError,
    IndexBackendUnavailableError,
    MnemeError,
    MultiProcessLockError,
    NamespaceQuotaExceededError,
    NamespaceRequiredError,
    QuantizationError,
    SchemaMigrationError,
    StoreBackendError,
)
from mneme.records import Explanation, Health, Hit, Miss, Stats
from mneme.stores.memory import MemoryStore
from mneme.stores.sqlite import SQLiteStore
from mneme.types import AsyncEmbedder, Embedder

__version__ = "0.1.0"

__all__ = [
    "AsyncEmbedder",
    "AsyncSemanticCache",
    "CacheClosedError",
    "CheckpointError",
    "CodecError",
    "CorruptCacheError",
    "Embedder",
    "EmbedderDimensionError",
    "EmbedderMismatchError",
    "EmbeddingError",
    "Explanation",
    "Health",
    "Hit",
    "IndexBackendUnavailableError",
    "MemoryStore",
    "Miss",
    "MnemeError",
    "MultiProcessLockError",
    "NamespaceQuotaExceededError",
    "NamespaceRequiredError",
    "QuantizationError",
    "SQLiteStore",
    "SchemaMigrationError",
    "SemanticCache",
    "Stats",
    "StoreBackendError",
    "bypass",
    "embedder_from",
    "namespace",
    "observe",
    "refresh",
    "semantic_cache",
    "serialized",
    "to_async_embedder",
    "to_sync_embedder",
]
