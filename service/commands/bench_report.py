"""The report of a load: its figures, and warnings about what limits them."""

from __future__ import annotations

import argparse
import math
import sys
from typing import Any

from service.commands.load import Report
from service.commands.output import bold
from service.counting import counted

_BUSY_SHARE = 0.9


def print_report(report: Report, what: str, options: argparse.Namespace) -> None:
    """Print what came of asking for `what`, and what makes it less than it seems."""
    how = f"due at {options.rate:g}/s" if options.rate else "each waiting for its answer"
    print(f"{what}\n{counted(options.connections, 'connection')}, {how}, {report.elapsed_seconds:.1f} s")
    names = {50: "p50", 90: "p90", 99: "p99", 100: "longest"}
    latencies = "   ".join(f"{name} {report.percentile(percent) * 1000:.2f} ms" for percent, name in names.items())
    print(f"{bold('answers', sys.stdout)}  {len(report.seconds):,} ({report.rate():,.1f}/s)")
    print(f"{bold('latency', sys.stdout)}  {latencies if report.seconds else 'none'}")
    errors = ", ".join(f"{number:,} x {reason}" for reason, number in report.errors.most_common()) or "none"
    print(f"{bold('errors ', sys.stdout)}  {errors}")
    for doubt in _doubts(report, options):
        print(f"note: {doubt}")


def _doubts(report: Report, options: argparse.Namespace) -> list[str]:
    """Return reasons to doubt the numbers."""
    doubts = []
    if report.cpu_share > _BUSY_SHARE:
        doubts.append(
            f"this program used {report.cpu_share:.0%} of the one core it can use: the service may bear more. "
            "Run several at once, or wrk."
        )
    if report.unsent:
        doubts.append(
            f"{counted(report.unsent, 'request')} due but never sent: {options.rate:g}/s are too many for "
            f"{counted(options.connections, 'connection')}. Latencies tell of an overload; lower --rate or raise "
            "--connections."
        )
    return doubts


def document_of(report: Report, options: argparse.Namespace) -> dict[str, Any]:
    """Return the report as JSON values."""
    milliseconds = {f"p{p}_ms": _finite(report.percentile(p) * 1000) for p in (50, 90, 99, 100)}
    return {
        "answers": len(report.seconds),
        "answers_per_second": round(report.rate(), 1),
        **milliseconds,
        "errors": dict(report.errors),
        "unsent": report.unsent,
        "connections": options.connections,
        "seconds": round(report.elapsed_seconds, 3),
        "cpu_share": round(report.cpu_share, 2),
    }


def _finite(milliseconds: float) -> float | None:
    return round(milliseconds, 3) if math.isfinite(milliseconds) else None
