"""Triton's statistics extension, made of the metrics of all processes, since the service started."""

from __future__ import annotations

from collections.abc import Iterable

from service.api.open_inference.metadata import Document
from service.engine.served_models import ServedModel
from service.telemetry.metrics import families
from service.telemetry.metrics.families import Family
from service.telemetry.metrics.totals import Totals

_STAGES = {"queue": "queue", "compute_input": "decode", "compute_infer": "compute", "compute_output": "encode"}
"""Our stage for each duration of Triton's."""

_NOTHING = {"count": 0, "ns": 0}


def describe(models: Iterable[ServedModel], totals: Totals) -> list[Document]:
    """Return the statistics of each model.

    Batches are counted by ranges of sizes (inference_batch_size), so `batch_stats` is empty. How long failures took is
    not measured, and there is no cache: these durations are 0.
    """
    return [_of(model.name, str(model.version), totals) for model in models]


def _of(name: str, version: str, totals: Totals) -> Document:
    labels = (name, version)
    failures = totals.series[families.REQUEST_FAILURES.name].items()
    failed = sum(numbers[0] for series, numbers in failures if series[:2] == labels)
    stages = {theirs: _duration(totals, families.STAGE_SECONDS, (*labels, ours)) for theirs, ours in _STAGES.items()}
    return {
        "name": name,
        "version": version,
        "last_inference": round(1000 * _number(totals, families.LAST_ANSWER, labels)),
        "inference_count": round(_number(totals, families.IMAGES, labels)),
        "execution_count": round(_number(totals, families.EXECUTIONS, labels)),
        "inference_stats": {
            "success": _duration(totals, families.REQUEST_SECONDS, labels),
            "fail": {"count": round(failed), "ns": 0},
            **stages,
            "cache_hit": _NOTHING,
            "cache_miss": _NOTHING,
        },
        "batch_stats": [],
    }


def _number(totals: Totals, family: Family, labels: tuple[str, ...]) -> float:
    return totals.series[family.name].get(labels, [0.0])[0]


def _duration(totals: Totals, family: Family, labels: tuple[str, ...]) -> Document:
    *counts, seconds = totals.series[family.name].get(labels, [0.0, 0.0])
    return {"count": round(sum(counts)), "ns": round(1e9 * seconds)}
