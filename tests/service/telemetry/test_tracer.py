"""Each request is a span, in its caller's trace, with a span for each stage."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

pytest.importorskip("opentelemetry.sdk", reason="needs opentelemetry; pip install argmax[otel]")

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from service.http.messages import Request
from service.telemetry import tracer
from service.telemetry.tracer import Tracer

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
STAGES = (0.001, 0.002, 0.004, 0.008, 0.016)


class Present:
    disconnected = False


def request(**headers: str) -> Request:
    return Request("POST", "/predict", {name.encode(): value.encode() for name, value in headers.items()}, Present())


def exported(refusal: tuple[int, str] | None = None, **headers: str) -> dict[str, ReadableSpan]:
    """Return the spans of a request, by name."""
    exporter = InMemorySpanExporter()
    made = Tracer("", exporter=exporter)
    span = made.begin(request(**headers)).span
    if refusal:
        made.refused(span, {}, *refusal)
    else:
        made.answered(span, {"argmax.model": "rows", "argmax.batch_size": 3}, STAGES)
    made.close()
    return {found.name: found for found in exporter.get_finished_spans()}


def test_a_request_is_a_span_in_its_callers_trace_and_its_stages_are_spans_in_it() -> None:
    spans = exported(traceparent=f"00-{TRACE}-{SPAN}-01")

    whole = spans.pop("POST /predict")
    assert whole.context
    assert whole.parent
    assert whole.attributes
    assert (f"{whole.context.trace_id:032x}", f"{whole.parent.span_id:016x}") == (TRACE, SPAN)
    assert whole.attributes["argmax.model"] == "rows"
    assert whole.attributes["http.response.status_code"] == 200
    assert {span.parent and span.parent.span_id for span in spans.values()} == {whole.context.span_id}
    seconds = {name: ((s.start_time or 0) - (whole.start_time or 0), (s.end_time or 0)) for name, s in spans.items()}
    assert {name: start for name, (start, _) in seconds.items()} == {
        "decode": 1_000_000,
        "queue": 3_000_000,
        "compute": 7_000_000,
    }
    assert seconds["decode"][1] - (whole.start_time or 0) == 3_000_000


def test_a_request_without_a_trace_begins_one() -> None:
    whole = exported()["POST /predict"]

    assert whole.parent is None


def test_a_trace_that_its_caller_does_not_sample_is_not_exported() -> None:
    assert exported(traceparent=f"00-{TRACE}-{SPAN}-00") == {}


@pytest.mark.parametrize(("status", "is_error"), [(400, False), (504, True)])
def test_a_refused_request_says_why_and_our_failures_are_errors(status: int, is_error: bool) -> None:
    (whole,) = exported((status, "a_reason")).values()

    assert whole.attributes
    assert (whole.attributes["error.type"], whole.attributes["http.response.status_code"]) == ("a_reason", status)
    assert (not whole.status.is_ok and not whole.status.is_unset) == is_error


def test_without_a_tracer_no_module_imports_the_sdk() -> None:
    tree = ast.parse(Path(tracer.__file__).read_text())
    at_import = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]

    assert not [node for node in at_import if "opentelemetry" in ast.unparse(node)]
