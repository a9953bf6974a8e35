"""OpenTelemetry spans of model calls, by the conventions for generative AI; no contents, no headers, no keys.

One span of kind CLIENT, "chat MODEL", for every request that goes to a model. It continues the client's trace
(`traceparent`) and is the parent of what the server does. Where spans are sent is OpenTelemetry's own setting:
OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_HEADERS, OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from tfgrpo.errors import missing_extra
from tfgrpo.serving.exchange import MAX_MODEL, Exchange

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

PROVIDERS = {"api.openai.com": "openai", "api.deepseek.com": "deepseek", "api.groq.com": "groq", "api.x.ai": "x_ai"}
MAX_LABELS = 32


class Tracing:
    """Makes the spans."""

    def __init__(self, provider: TracerProvider, *, host: str, port: int) -> None:
        from opentelemetry import trace  # noqa: PLC0415 - an extra
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

        self._trace, self._context = trace, TraceContextTextMapPropagator()
        self._tracer = provider.get_tracer("tfgrpo.serving")
        self._place: dict[str, str | int] = {
            "gen_ai.provider.name": PROVIDERS.get(host, "azure.ai.openai" if host.endswith(".azure.com") else "openai"),
            "server.address": host,
            "server.port": port,
        }

    def sending(self, exchange: Exchange, headers: Mapping[str, str]) -> Mapping[str, str]:
        """Begins the span of a model call; the headers by which the server continues the trace."""
        if exchange.route not in ("chat", "responses"):
            return {}
        model = exchange.model[:MAX_MODEL]
        given = {name.lower(): headers[name] for name in ("traceparent", "tracestate") if name in headers}
        span = self._tracer.start_span(
            f"chat {model}".rstrip(),
            context=self._context.extract(given),
            kind=self._trace.SpanKind.CLIENT,
            start_time=time.time_ns() - int(1e9 * (time.perf_counter() - exchange.started)),
            attributes={
                "gen_ai.operation.name": "chat",
                "gen_ai.request.model": model,
                "gen_ai.request.stream": exchange.stream,
                **self._place,
            },
        )
        exchange.context = span
        sent: dict[str, str] = {}
        self._context.inject(sent, self._trace.set_span_in_context(span))
        return sent

    def ended(self, exchange: Exchange) -> None:
        """Ends the span with what is known by now."""
        span, e = exchange.context, exchange
        if span is None:
            return
        attributes: dict[str, Any] = {
            "http.response.status_code": e.status,
            "tfgrpo.namespace": e.namespace,
            "tfgrpo.version": e.version,
            "tfgrpo.experiences": list(e.labels[:MAX_LABELS]),
        }
        if e.answered_by:
            attributes["gen_ai.response.model"] = e.answered_by
        if e.stream and e.first_at:
            attributes["gen_ai.response.time_to_first_chunk"] = e.first_at - e.sent_at
        if e.tokens is not None:
            attributes["gen_ai.usage.input_tokens"] = e.tokens.prompt
            attributes["gen_ai.usage.output_tokens"] = e.tokens.completion
            attributes["gen_ai.usage.cache_read.input_tokens"] = e.tokens.cached
        if e.error or e.status >= 400:
            attributes["error.type"] = e.error or str(e.status)
            span.set_status(self._trace.StatusCode.ERROR)
        span.set_attributes(attributes)
        span.end()


def otlp() -> tuple[TracerProvider, Callable[[], None]]:
    """What sends spans by OTLP over HTTP, and how it is ended.

    Raises:
        MissingExtraError: the exporter is not installed.
    """
    if importlib.util.find_spec("opentelemetry.exporter.otlp.proto.http") is None:
        raise missing_extra("opentelemetry-exporter-otlp-proto-http", "serve", "--trace otlp")
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    named = Resource({"service.name": "tfgrpo"}).merge(Resource.create())
    provider = TracerProvider(resource=named, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider, provider.shutdown
