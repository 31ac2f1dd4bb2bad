"""A semantic cache that LLM applications can trust."""

from mneme.cache import AsyncSemanticCache, SemanticCache
from mneme.context import bypass, namespace, observe, refresh
from mneme.embedders import embedder_from, serialized, to_async_embedder, to_sync_embedder
from mneme.stores.memory import MemoryStore
from mneme.stores.sqlite import SQLiteStore

__version__ = "0.1.0"
