"""Metrics hooks tell Prometheus and OpenTelemetry what the cache did."""

from __future__ import annotations

from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry

from mneme import MemoryStore, SemanticCache
from mneme.integrations.opentelemetry import OTelMetricsHook
from mneme.integrations.prometheus import PrometheusMetricsHook
from mneme.testing import HashEmbedder, ManualClock


def refuse_python(asked: str, cached: str) -> str | None:
    return "another language" if "python" in asked and "python" not in cached else None


def live_through_everything(hook: Any) -> SemanticCache:
    """A cache that has hit, missed, stored, evicted, expired, refused and failed open."""
    clock = ManualClock()
    embedder = HashEmbedder()
    cache = SemanticCache(
        store=MemoryStore(),
        embedder=embedder,
        max_entries=2,
        similarity_threshold=0.7,
        guards=[refuse_python],
        metrics_hook=hook,
        clock=clock,
    )
    cache.put("how do I reset my password", "so", ttl=60)
    cache.get("how do I reset my password")
    cache.get("how do I reset my old password")
    cache.get("how do I reset my python password")
    cache.get("what is the capital of France")
    cache.put("second", "2", ttl=60)
    cache.put("third", "3", ttl=60)
    clock.advance(61)
    cache.get("third")
    embedder.dim = 3
    embedder.embed = lambda text: [1.0]  # type: ignore[method-assign, assignment, return-value]
    cache.get("the embedder is broken now")
    return cache


def test_prometheus_hears_of_every_event() -> None:
    """Each event adds to its metric, under the documented name and labels."""
    registry = CollectorRegistry()
    hook = PrometheusMetricsHook(registry)
    cache = live_through_everything(hook)
    hook.update_gauges(cache.stats())
    hook.update_gauges(cache.stats("default"))
    read = registry.get_sample_value
    assert read("mneme_hits_total", {"namespace": "default", "layer": "exact"}) == 1
    assert read("mneme_hits_total", {"namespace": "default", "layer": "semantic"}) == 1
    assert read("mneme_misses_total", {"reason": "below_threshold"}) == 2
    assert read("mneme_misses_total", {"reason": "guarded"}) == 1
    assert read("mneme_misses_total", {"reason": "embedder_failed"}) == 1
    assert read("mneme_evictions_total", {"namespace": "default"}) == 1
    assert read("mneme_expirations_total", {"namespace": "default"}) == 1
    assert read("mneme_guarded_total", {"namespace": "default"}) == 1
    assert read("mneme_puts_total", {"namespace": "default"}) == 3
    assert read("mneme_failed_open_total", {"part": "embedder"}) == 1
    assert read("mneme_hit_similarity_count") == 1
    assert read("mneme_hit_age_seconds_count") == 2
    assert read("mneme_entries", {"namespace": "all"}) == cache.stats().entries
    assert read("mneme_entries", {"namespace": "default"}) == cache.stats().entries


def test_prometheus_can_leave_namespaces_together() -> None:
    """With very many tenants a label for each would be too much: they can be one."""
    registry = CollectorRegistry()
    live_through_everything(PrometheusMetricsHook(registry, by_namespace=False))
    labels = {"namespace": "all", "layer": "exact"}
    assert registry.get_sample_value("mneme_hits_total", labels) == 1


def test_opentelemetry_hears_of_every_event() -> None:
    """Each event adds to its instrument, under the documented name and attributes."""
    reader = InMemoryMetricReader()
    provider = MeterProvider(metric_readers=[reader])
    hook = OTelMetricsHook(provider.get_meter("test"))
    cache = live_through_everything(hook)
    hook.update_gauges(cache.stats())
    found: dict[str, dict[frozenset[tuple[str, Any]], Any]] = {}
    data = reader.get_metrics_data()
    assert data is not None
    for metric in data.resource_metrics[0].scope_metrics[0].metrics:
        for point in metric.data.data_points:
            value = getattr(point, "value", getattr(point, "count", None))
            found.setdefault(metric.name, {})[frozenset((point.attributes or {}).items())] = value
    space = ("namespace", "default")
    assert found["mneme_hits_total"][frozenset({space, ("layer", "exact")})] == 1
    assert found["mneme_misses_total"][frozenset({space, ("reason", "guarded")})] == 1
    assert found["mneme_evictions_total"][frozenset({space})] == 1
    assert found["mneme_expirations_total"][frozenset({space})] == 1
    assert found["mneme_failed_open_total"][frozenset({space, ("part", "embedder")})] == 1
    assert found["mneme_hit_similarity"][frozenset()] == 1
    assert found["mneme_entries"][frozenset()] == cache.stats().entries
    provider.shutdown()
