"""Spans of requests, exported over OTLP: one for each request, and inside it decode, queue and compute.

OpenTelemetry is imported when a tracer is made, so that a service without an endpoint has none of it. What its SDK
reads from the environment (OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER, OTEL_EXPORTER_OTLP_HEADERS, ...) holds here, too.
"""

from __future__ import annotations

import importlib.util
import threading
import time
from importlib.metadata import version
from typing import Any

from service.http.messages import Request
from service.telemetry.metrics.recorder import STAGES, Stages
from service.telemetry.trace_context import TraceContext

_EXPORTED = ("decode", "queue", "compute")
_CLOSE_SECONDS = 2.0  # a collector that does not answer must not hold up the end of the process


def check_installed() -> None:
    """Refuse an endpoint without the packages that it needs.

    Raises:
        ValueError: they are not installed.
    """
    if not importlib.util.find_spec("opentelemetry") or not importlib.util.find_spec("opentelemetry.exporter"):
        raise ValueError("SERVICE_OTLP_ENDPOINT needs opentelemetry. Given: none. pip install argmax[otel]")


class Tracer:
    """Makes the spans of one process's requests, and exports them to `endpoint` on a thread; make it after the fork."""

    def __init__(self, endpoint: str, *, exporter: Any = None) -> None:
        from opentelemetry import trace
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        if exporter is None:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

            exporter = OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces")
        named = Resource({"service.name": "argmax", "service.version": version("argmax")})
        self._provider = TracerProvider(resource=named.merge(OTELResourceDetector().detect()))
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("argmax", version("argmax"))
        self._propagator = TraceContextTextMapPropagator()
        self._trace = trace

    def begin(self, request: Request) -> TraceContext:
        """Begin the span of a request, in the trace that its headers name or in a new one."""
        carrier = {name: text for name in ("traceparent", "tracestate") if (text := request.header(name))}
        route = request.route.path if request.route else request.path
        since_arrival = time.monotonic() - request.arrived
        span = self._tracer.start_span(
            f"{request.method} {route}",
            self._propagator.extract(carrier),
            self._trace.SpanKind.SERVER,
            {"http.request.method": request.method, "http.route": route, "argmax.request_id": request.id},
            start_time=time.time_ns() - int(1e9 * since_arrival),
        )
        context = span.get_span_context()
        flags = f"{context.trace_flags:02x}"
        return TraceContext(f"{context.trace_id:032x}", f"{context.span_id:016x}", flags, span)

    def answered(self, span: Any, attributes: dict[str, str | int], stages: Stages) -> None:
        """End the span of a request that got its predictions, with one for each stage."""
        if span.is_recording():
            context = self._trace.set_span_in_context(span)
            at = span.start_time
            for stage, seconds in zip(STAGES, stages, strict=True):
                until = at + int(1e9 * seconds)
                if stage in _EXPORTED:
                    self._tracer.start_span(stage, context, start_time=at).end(until)
                at = until
        span.set_attributes({"http.response.status_code": 200, **attributes})
        span.end()

    def refused(self, span: Any, attributes: dict[str, str | int], status: int, reason: str) -> None:
        """End the span of a request that got none."""
        span.set_attributes({"http.response.status_code": status, "error.type": reason, **attributes})
        if status >= 500:
            span.set_status(self._trace.StatusCode.ERROR, reason)
        span.end()

    def close(self) -> None:
        """Export what is left, if that is soon done."""
        last = threading.Thread(target=self._provider.shutdown, name="spans", daemon=True)
        last.start()
        last.join(_CLOSE_SECONDS)
