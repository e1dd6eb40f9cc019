"""The trace of a request is read as W3C Trace Context says it, and named in the answer."""

from __future__ import annotations

import pytest

from service.telemetry.trace_context import read

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize("header", [f"00-{TRACE}-{SPAN}-01", f"cc-{TRACE}-{SPAN}-01-what-will-be"])
def test_a_trace_is_read_and_named_in_the_answer(header: str) -> None:
    found = read({b"traceparent": header.encode()})

    assert found is not None
    assert found.header() == (b"traceresponse", f"00-{TRACE}-{SPAN}-01".encode())


@pytest.mark.parametrize(
    "header",
    [
        "",
        "nonsense",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-01-more",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
    ],
)
def test_what_the_standard_forbids_is_no_trace(header: str) -> None:
    assert read({b"traceparent": header.encode()}) is None
    assert read({}) is None
