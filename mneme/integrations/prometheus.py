"""Counters, histograms and gauges for Prometheus (extra: ``mneme-toolkit[prometheus]``)."""

from __future__ import annotations

from typing import Any

from mneme.records import Stats

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
except ImportError as _exc:
    raise ImportError(
        "mneme.integrations.prometheus needs prometheus-client. "
        "Install it with: pip install 'mneme-toolkit[prometheus]'"
    ) from _exc

__all__ = ["PrometheusMetricsHook"]

SIMILARITY_BUCKETS = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.975, 1.0)
AGE_BUCKETS = (1.0, 10.0, 60.0, 600.0, 3_600.0, 21_600.0, 86_400.0, 604_800.0, 2_592_000.0)


class PrometheusMetricsHook:
    """
    Pass it as ``metrics_hook=``; call `update_gauges` with `cache.stats()` when scraped.

    Namespaces become label values: with very many tenants pass ``by_namespace=False``, which
    labels them all ``"all"``.

    Args:
        registry: where the metrics are registered; one hook for each registry.
        by_namespace: whether namespaces are told apart.
    """

    def __init__(
        self, registry: CollectorRegistry = REGISTRY, *, by_namespace: bool = True
    ) -> None:
        self._by_namespace = by_namespace
        space = ["namespace"]

        def counter(name: str, text: str, labels: list[str]) -> Counter:
            return Counter(name, text, labels, registry=registry)

        self._hits = counter("mneme_hits_total", "Answers served.", [*space, "layer"])
        self._misses = counter("mneme_misses_total", "Lookups without an answer.", ["reason"])
        self._puts = counter("mneme_puts_total", "Answers stored.", space)
        self._counters = {
            "eviction": counter("mneme_evictions_total", "Entries that had to go.", space),
            "expired": counter("mneme_expirations_total", "Entries that died of age.", space),
            "guarded": counter("mneme_guarded_total", "Near entries a guard refused.", space),
            "put": self._puts,
        }
        self._failed = counter("mneme_failed_open_total", "Calls that went past.", ["part"])
        self._similarity = Histogram(
            "mneme_hit_similarity",
            "Cosine of semantic hits.",
            buckets=SIMILARITY_BUCKETS,
            registry=registry,
        )
        self._age = Histogram(
            "mneme_hit_age_seconds",
            "Age of served answers.",
            buckets=AGE_BUCKETS,
            registry=registry,
        )
        self._entries = Gauge("mneme_entries", "Live entries.", space, registry=registry)
        self._error = Gauge(
            "mneme_error_bound", "Upper bound of wrong semantic hits.", space, registry=registry
        )
        self._memory = Gauge("mneme_memory_bytes", "Estimated memory.", space, registry=registry)

    def __call__(self, event: str, attrs: dict[str, Any]) -> None:
        space = self._space(attrs.get("namespace"))
        if event == "hit":
            self._hits.labels(space, attrs["layer"]).inc()
            self._age.observe(attrs["age_seconds"])
            if attrs["layer"] == "semantic":
                self._similarity.observe(attrs["similarity"])
        elif event == "miss":
            self._misses.labels(attrs["reason"]).inc()
        elif event == "failed_open":
            self._failed.labels(attrs["part"]).inc()
        elif (counter := self._counters.get(event)) is not None:
            counter.labels(space).inc()

    def update_gauges(self, stats: Stats) -> None:
        """Set the gauges to what `stats` says, for its namespace or for all."""
        space = self._space(stats.namespace)
        self._entries.labels(space).set(stats.entries)
        self._memory.labels(space).set(stats.memory_bytes_estimate)
        if stats.error_bound is not None:
            self._error.labels(space).set(stats.error_bound)

    def _space(self, namespace: str | None) -> str:
        return namespace if self._by_namespace and namespace is not None else "all"
