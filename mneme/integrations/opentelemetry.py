"""Instruments for OpenTelemetry (extra: ``mneme-toolkit[opentelemetry]``)."""

from __future__ import annotations

from typing import Any

from mneme.records import Stats

try:
    from opentelemetry.metrics import Meter, get_meter
except ImportError as _exc:
    raise ImportError(
        "mneme.integrations.opentelemetry needs opentelemetry-api. "
        "Install it with: pip install 'mneme-toolkit[opentelemetry]'"
    ) from _exc

__all__ = ["OTelMetricsHook"]


class OTelMetricsHook:
    """
    Pass it as ``metrics_hook=``; call `update_gauges` with `cache.stats()` now and then.

    Args:
        meter: where the instruments are made; default: the global meter named ``mneme``.
        by_namespace: whether namespaces are told apart by an attribute.
    """

    def __init__(self, meter: Meter | None = None, *, by_namespace: bool = True) -> None:
        meter = meter or get_meter("mneme")
        self._by_namespace = by_namespace
        self._counters = {
            event: meter.create_counter(name, description=text)
            for event, name, text in (
                ("hit", "mneme_hits_total", "Answers served."),
                ("miss", "mneme_misses_total", "Lookups without an answer."),
                ("put", "mneme_puts_total", "Answers stored."),
                ("eviction", "mneme_evictions_total", "Entries that had to go."),
                ("expired", "mneme_expirations_total", "Entries that died of age."),
                ("guarded", "mneme_guarded_total", "Near entries a guard refused."),
                ("failed_open", "mneme_failed_open_total", "Calls that went past."),
            )
        }
        self._similarity = meter.create_histogram(
            "mneme_hit_similarity", description="Cosine of semantic hits."
        )
        self._age = meter.create_histogram(
            "mneme_hit_age_seconds", unit="s", description="Age of served answers."
        )
        self._entries = meter.create_gauge("mneme_entries", description="Live entries.")
        self._error = meter.create_gauge(
            "mneme_error_bound", description="Upper bound of wrong semantic hits."
        )
        self._memory = meter.create_gauge(
            "mneme_memory_bytes", unit="By", description="Estimated memory."
        )

    def __call__(self, event: str, attrs: dict[str, Any]) -> None:
        counter = self._counters.get(event)
        if counter is None:
            return
        labels = self._space(attrs.get("namespace"))
        labels |= {name: attrs[name] for name in ("layer", "reason", "part") if name in attrs}
        counter.add(1, labels)
        if event == "hit":
            self._age.record(attrs["age_seconds"])
            if attrs["layer"] == "semantic":
                self._similarity.record(attrs["similarity"])

    def update_gauges(self, stats: Stats) -> None:
        """Set the gauges to what `stats` says, for its namespace or for all."""
        space = self._space(stats.namespace)
        self._entries.set(stats.entries, space)
        self._memory.set(stats.memory_bytes_estimate, space)
        if stats.error_bound is not None:
            self._error.set(stats.error_bound, space)

    def _space(self, namespace: str | None) -> dict[str, str]:
        return {"namespace": namespace} if self._by_namespace and namespace is not None else {}
