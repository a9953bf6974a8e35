"""Prometheus metrics of the proxy. Labels are few and fixed: none of them holds what a client can invent."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping

from tfgrpo.errors import missing_extra
from tfgrpo.serving.exchange import Exchange
from tfgrpo.serving.library_source import LibrarySource
from tfgrpo.serving.limits import Slots

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
ADDED = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 1)


def available() -> bool:
    """Whether the package that counts is installed."""
    return importlib.util.find_spec("prometheus_client") is not None


class Metrics:
    """Counts every exchange; `page` is what /metrics shows.

    Raises:
        MissingExtraError: prometheus-client is not installed.
    """

    def __init__(self, sources: Mapping[str, LibrarySource], slots: Slots) -> None:
        if not available():
            raise missing_extra("prometheus-client", "serve", "/metrics")
        import prometheus_client as prometheus  # noqa: PLC0415 - an extra

        self._prometheus, self._sources, self._slots = prometheus, sources, slots
        self._registry = registry = prometheus.CollectorRegistry()
        counter, gauge, histogram = prometheus.Counter, prometheus.Gauge, prometheus.Histogram
        by = ("namespace", "route")
        self._requests = counter(
            "tfgrpo_requests", "Requests by what became of them", (*by, "status", "error"), registry=registry
        )
        self._total = histogram(
            "tfgrpo_request_seconds",
            "From the request to the end of its answer",
            by,
            buckets=SECONDS,
            registry=registry,
        )
        self._upstream = histogram(
            "tfgrpo_upstream_seconds", "What the server took of it", by, buckets=SECONDS, registry=registry
        )
        self._added = histogram(
            "tfgrpo_added_seconds", "What the proxy took of it", by, buckets=ADDED, registry=registry
        )
        self._tokens = counter(
            "tfgrpo_tokens",
            "As the server counted; cached is a part of prompt",
            ("namespace", "kind"),
            registry=registry,
        )
        self._shown = counter("tfgrpo_experiences", "Experiences put into requests", ("namespace",), registry=registry)
        self._augmented = counter(
            "tfgrpo_augmented_requests", "Requests with an experience in them", ("namespace",), registry=registry
        )
        self._chosen = counter(
            "tfgrpo_strategy_requests", "Requests that a strategy took", ("namespace",), registry=registry
        )
        self._calls = counter(
            "tfgrpo_strategy_calls", "Calls of the server for them, the judge's too", ("namespace",), registry=registry
        )
        self._in_flight = gauge("tfgrpo_in_flight", "Requests that are not over", registry=registry)
        self._version = gauge(
            "tfgrpo_library_version", "Number of the served version", ("namespace",), registry=registry
        )
        self._unseen = gauge(
            "tfgrpo_library_unseen_seconds", "Since the store was last read", ("namespace",), registry=registry
        )

    def sending(self, exchange: Exchange, headers: Mapping[str, str]) -> Mapping[str, str]:
        """Counted at its end."""
        return {}

    def ended(self, exchange: Exchange) -> None:
        """Counts what became of it."""
        e = exchange
        self._requests.labels(e.namespace, e.route, str(e.status), e.error).inc()
        self._total.labels(e.namespace, e.route).observe(e.total_s)
        if e.sent_at:
            self._upstream.labels(e.namespace, e.route).observe(e.upstream_s)
            self._added.labels(e.namespace, e.route).observe(e.added_s)
        if e.labels:
            self._shown.labels(e.namespace).inc(len(e.labels))
            self._augmented.labels(e.namespace).inc()
        if e.calls:
            self._chosen.labels(e.namespace).inc()
            self._calls.labels(e.namespace).inc(e.calls)
        if e.tokens is not None:
            for kind in ("prompt", "completion", "cached"):
                self._tokens.labels(e.namespace, kind).inc(getattr(e.tokens, kind))

    def page(self) -> tuple[bytes, str]:
        """The text and its content type."""
        self._in_flight.set(self._slots.in_flight)
        for namespace, source in self._sources.items():
            status = source.status()
            self._version.labels(namespace).set(int(status.version[1:]))
            self._unseen.labels(namespace).set(status.unseen_s if status.problem else 0.0)
        text: bytes = self._prometheus.generate_latest(self._registry)
        return text, self._prometheus.CONTENT_TYPE_LATEST
