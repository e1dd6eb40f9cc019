"""The trace that a request belongs to, as the headers of W3C Trace Context say it. Knows nothing about spans."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from service.http.messages import Header

TRACEPARENT = b"traceparent"

_FORM = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


class TraceContext(NamedTuple):
    """A trace, and a span of it: the caller's, or our own `span` where spans are exported."""

    trace_id: str  # 32 hexadecimal digits
    span_id: str  # 16
    flags: str  # 2
    span: Any = None

    def header(self) -> Header:
        """Return the header of an answer that names the trace."""
        return (b"traceresponse", f"00-{self.trace_id}-{self.span_id}-{self.flags}".encode())


def read(headers: Mapping[bytes, bytes]) -> TraceContext | None:
    """Return the trace that a request's headers name; None if they name none, or not as the standard demands."""
    found = _FORM.fullmatch(headers.get(TRACEPARENT, b""))
    if found is None:
        return None
    version, trace_id, span_id, flags, rest = found.groups()
    if version == b"ff" or (version == b"00" and rest) or not trace_id.strip(b"0") or not span_id.strip(b"0"):
        return None
    return TraceContext(trace_id.decode(), span_id.decode(), flags.decode())
