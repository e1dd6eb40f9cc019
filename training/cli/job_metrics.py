"""Metrics of a finished run for Prometheus: a file for the node exporter, or a Pushgateway.

Best effort: a run that cannot tell its figures has not failed. Knows nothing about how they came to be.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, pushadd_to_gateway, write_to_textfile
from prometheus_client.parser import text_string_to_metric_families

from service.contract.manifest import Metric
from training.settings import JobSettings

logger = logging.getLogger(__name__)

JOB = "training"
_MEASURED = {
    "accuracy": ("training_accuracy", "Share of right answers of the version, on the data."),
    "nll": ("training_loss", "Negative log likelihood of its probabilities."),
    "ece": ("training_calibration_error", "Expected calibration error of its probabilities."),
    "ece_bound": ("training_calibration_error_bound", "What that stays below in 95 of 100 draws if they are right."),
}
_SUCCESS = "training_last_success_timestamp_seconds"
_PUSH_SECONDS = 10.0


@dataclass(frozen=True)
class Figures:
    """The metrics of a run that has ended."""

    model: str
    exit_code: int
    seconds: float
    metrics: Sequence[Metric] = ()  # of the version that it published or would have
    version: int | None = None  # that it published

    def send(self, settings: JobSettings) -> None:
        """Write and push the metrics as `settings` say; log a warning if that fails."""
        if settings.metrics_textfile is not None:
            try:
                # The file is all that Prometheus sees, so it remembers the success before a failure; a gateway does.
                former = _former_success(settings.metrics_textfile, self.model)
                write_to_textfile(str(settings.metrics_textfile), self.collected(former_success=former))
            except (OSError, ValueError) as error:
                logger.warning("the figures are not in %s: %s", settings.metrics_textfile, error)
        if settings.pushgateway is not None:
            try:
                pushadd_to_gateway(
                    settings.pushgateway,
                    job=JOB,
                    registry=self.collected(),
                    grouping_key={"model": self.model},
                    timeout=_PUSH_SECONDS,
                )
            except (OSError, ValueError, HTTPException) as error:
                logger.warning("the figures are not at %s: %s", settings.pushgateway, error)

    def collected(self, *, former_success: float | None = None) -> CollectorRegistry:
        """Return the metrics as gauges in a registry of their own."""
        registry = CollectorRegistry()

        def gauge(name: str, text: str, value: float | None, **labels: str) -> None:
            if value is not None:
                family = Gauge(name, text, ["model", *labels], registry=registry)
                family.labels(self.model, *labels.values()).set(value)

        now = time.time()
        gauge("training_last_run_timestamp_seconds", "When the last run ended.", now)
        gauge(_SUCCESS, "When the last run ended that did its work.", now if self.exit_code == 0 else former_success)
        gauge("training_last_run_exit_code", "What it ended with; 0 is success.", self.exit_code)
        gauge("training_run_seconds", "How long it took.", self.seconds)
        gauge("training_version", "The version that it published.", self.version)
        for source, (name, text) in _MEASURED.items():
            measured = [metric for metric in self.metrics if metric.name == source]
            if measured:
                family = Gauge(name, text, ["model", "data"], registry=registry)
                for metric in measured:
                    family.labels(self.model, metric.data).set(metric.value)
        return registry


def _former_success(file: Path, model: str) -> float | None:
    try:
        families = list(text_string_to_metric_families(file.read_text()))
    except FileNotFoundError:
        return None
    except ValueError as error:
        logger.warning("%s is replaced: it must be in Prometheus' text format. Given: %s", file, error)
        return None
    samples = (sample for family in families for sample in family.samples)
    return next((s.value for s in samples if s.name == _SUCCESS and s.labels.get("model") == model), None)
