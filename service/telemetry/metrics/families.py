"""Every metric: its name, what it counts, and by which labels. All are of bounded sets: a request's words are none."""

from __future__ import annotations

import enum
from typing import NamedTuple

Labels = tuple[str, ...]
"""The values of a series' labels, in its family's order."""

Group = tuple[str, str]
"""A model's name and a version's number, as labels; '' for none."""


class Kind(enum.Enum):
    """The way in which the values of several processes are combined."""

    COUNTER = "counter"  # added up, and kept when a process dies
    HISTOGRAM = "histogram"  # likewise, bucket by bucket
    SUM = "sum"  # a gauge: the sum over the living
    MAX = "max"  # a gauge: the greatest among the living
    AGE = "age"  # a gauge: seconds since the earliest of the living's times, which are on time.monotonic()'s clock
    SINCE = "since"  # a gauge: seconds since the latest of them


class Family(NamedTuple):
    """One metric."""

    name: str
    help: str
    labels: tuple[str, ...] = ()
    kind: Kind = Kind.COUNTER
    buckets: tuple[float, ...] = ()

    @property
    def width(self) -> int:
        """How many numbers a series has: a histogram's are its buckets, +Inf and the sum of its values."""
        return len(self.buckets) + 2 if self.buckets else 1

    def group_of(self, labels: Labels) -> Group:
        """Return the model and version that a series is about."""
        named = dict(zip(self.labels, labels, strict=True))
        return named.get("model", ""), named.get("version", "")


Gauge = tuple[Family, Labels, float]

_VERSION = ("model", "version")

_SECONDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_STAGE_SECONDS = (0.00005, 0.0001, 0.00025, *_SECONDS)
_LOAD_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_PROBABILITIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 1)

REQUESTS = Family("inference_requests", "Requests answered.", (*_VERSION, "code"))
REQUEST_FAILURES = Family(
    "inference_request_failures", "Requests answered otherwise than with predictions.", (*_VERSION, "reason")
)
REQUEST_SECONDS = Family(
    "inference_request_duration_seconds",
    "From the arrival of a request to its answer, of those answered with predictions.",
    _VERSION,
    Kind.HISTOGRAM,
    _SECONDS,
)
STAGE_SECONDS = Family(
    "inference_stage_duration_seconds",
    "The parts of the same: read, decode, queue, compute, encode.",
    (*_VERSION, "stage"),
    Kind.HISTOGRAM,
    _STAGE_SECONDS,
)
KEY_REQUESTS = Family(
    "inference_key_requests", "Requests for predictions, by the name of their API key.", ("key", "code")
)
IN_FLIGHT = Family("inference_in_flight", "Requests that have arrived and are not answered.", (), Kind.SUM)
QUEUE_DEPTH = Family("inference_queue_depth", "Images accepted and not answered.", ("model",), Kind.SUM)
QUEUE_CAPACITY = Family(
    "inference_queue_capacity",
    "Images that may wait for an answer; beyond it requests get a 429.",
    (),
    Kind.SUM,
)
QUEUE_AGE = Family(
    "inference_queue_oldest_age_seconds",
    "How long the oldest image has been waiting for its answer, 0 when none is.",
    ("model",),
    Kind.AGE,
)
LAST_ANSWER = Family(
    "inference_last_answer_timestamp_seconds",
    "When a request was last answered with predictions, as Unix time.",
    _VERSION,
    Kind.MAX,
)
IMAGES = Family("inference_images", "Images computed.", _VERSION)
IMAGE_FAILURES = Family(
    "inference_image_failures",
    "Images that got an error of their own: they do not decode, beside others that do, or the model fails on them.",
    (*_VERSION, "reason"),
)
ABSTAINED = Family(
    "inference_abstained",
    "Images that got no label: blank ones, and outliers where the request said abstain=true.",
    (*_VERSION, "reason"),
)
EXECUTIONS = Family("inference_executions", "Batches computed.", _VERSION)
BUSY_SECONDS = Family("inference_compute_seconds", "Time that workers spent on computing batches.", _VERSION)
BATCH_SIZE = Family("inference_batch_size", "Images computed together.", _VERSION, Kind.HISTOGRAM, _SIZES)
CLASSES = Family(
    "inference_prediction_class", "Predictions of each class, of models with at most 10.", (*_VERSION, "class")
)
CONFIDENCE = Family(
    "inference_prediction_confidence",
    "The calibrated probability of the predicted class.",
    _VERSION,
    Kind.HISTOGRAM,
    _PROBABILITIES,
)
DRIFT = Family(
    "inference_drift_ratio",
    "Distance of the latest predictions from those for held-out inputs, of class, confidence and outlier score, "
    "divided by its limit: more than 1 is drift.",
    (*_VERSION, "distribution"),
    Kind.MAX,
)
DRIFT_IMAGES = Family(
    "inference_drift_window_images", "Predictions in the window that is compared.", _VERSION, Kind.MAX
)
FEEDBACK = Family("inference_feedback", "Predictions whose truth was told, by what they were.", (*_VERSION, "outcome"))
LIVE_ACCURACY = Family(
    "inference_live_accuracy_ratio",
    "Share of the predictions with feedback that were right, and the interval that holds it with 95 % confidence.",
    (*_VERSION, "bound"),
    Kind.MAX,
)
MODEL_INFO = Family(
    "inference_model_info",
    "1 for each version on offer; default says whether it answers when no version is named.",
    (*_VERSION, "digest", "format", "torch", "default"),
    Kind.MAX,
)
ALIAS_INFO = Family("inference_model_alias_info", "1 for each alias and its version.", (*_VERSION, "alias"), Kind.MAX)
MODEL_READY = Family("inference_model_ready", "1 if some worker would compute for the version now.", _VERSION, Kind.MAX)
FAULTS = Family(
    "inference_model_faults",
    "Versions of a model that are refused now, and 1 if other files of it are damaged.",
    ("model",),
    Kind.MAX,
)
FALLBACK = Family(
    "inference_model_fallback",
    "1 while a model answers with an older version because production cannot serve.",
    ("model",),
    Kind.MAX,
)
REGISTRY_AGE = Family(
    "inference_registry_age_seconds", "Since the worker that lags most has read the registry.", (), Kind.AGE
)
MODEL_QUARANTINED = Family(
    "inference_model_quarantined", "1 if the version ended too many processes and is asked no more.", _VERSION, Kind.MAX
)
LOADED_TIME = Family(
    "inference_model_loaded_timestamp_seconds", "When the version was loaded last, as Unix time.", _VERSION, Kind.MAX
)
LOADS = Family("inference_model_load", "Attempts of workers to load a version.", ("model", "result"))
LOAD_SECONDS = Family(
    "inference_model_load_duration_seconds",
    "How long an attempt took, from the fetch to the last batch size of the warm-up.",
    ("model", "result"),
    Kind.HISTOGRAM,
    _LOAD_SECONDS,
)
SELF_TESTS = Family("inference_selftest", "Runs of a golden sample on a worker.", (*_VERSION, "result"))
SELF_TEST_AGE = Family(
    "inference_selftest_age_seconds",
    "Since a golden sample last came out right.",
    _VERSION,
    Kind.SINCE,
)
WORKER_UP = Family("inference_worker_up", "1 if the worker has loaded and shows signs of life.", ("worker",), Kind.MAX)
WORKER_RESTARTS = Family("inference_worker_restarts", "Workers replaced.", ("reason",))
HTTP_UP = Family("inference_http_processes", "HTTP processes that answer, and the gRPC process.", (), Kind.SUM)
HTTP_RESTARTS = Family("inference_http_restarts", "HTTP processes replaced, and gRPC processes.")
OMITTED_LINES = Family("inference_request_lines_omitted", "Request lines that were left out of the log.")
_PROCESS = ("role", "process")
PROCESS_CPU = Family("inference_process_cpu_seconds", "CPU time that the process has used.", _PROCESS)
PROCESS_MEMORY = Family(
    "inference_process_resident_memory_bytes",
    "Resident memory of the process, with the pages that it shares with others.",
    _PROCESS,
    Kind.MAX,
)
PROCESS_DESCRIPTORS = Family("inference_process_open_fds", "Open file descriptors.", _PROCESS, Kind.MAX)
BUILD_INFO = Family(
    "argmax_build_info",
    "1, with the versions of the service and of what it runs on.",
    ("version", "python", "torch"),
    Kind.MAX,
)
GPU_MEMORY_USED = Family("inference_gpu_memory_used_bytes", "Memory in use on the GPU.", ("gpu_uuid",), Kind.MAX)
GPU_MEMORY_TOTAL = Family("inference_gpu_memory_total_bytes", "Memory of the GPU.", ("gpu_uuid",), Kind.MAX)
GPU_UTILIZATION = Family(
    "inference_gpu_utilization_ratio",
    "Share of the last sample period of NVML in which the GPU computed.",
    ("gpu_uuid",),
    Kind.MAX,
)

FAMILIES: dict[str, Family] = {value.name: value for value in list(globals().values()) if isinstance(value, Family)}
