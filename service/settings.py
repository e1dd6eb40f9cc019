"""Every setting of the service, declared once: an environment variable SERVICE_X and an option --x."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.logs import Format

_NAME = r"^[a-z0-9][a-z0-9_.-]{0,63}$"
"""A model's name, as the manifest has it."""

_PREFIX = "SERVICE_"

_OF_CLIENTS = "SERVICE_URL"

_LEAST_HANG_SECONDS = 5.0

_Seconds = Annotated[float, Field(le=86_400)]
"""At most a day, for which nobody waits: the system's timers and limits overflow after a few weeks."""


def usable_cores(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Return the cores that this process may use, by affinity and by a container's limit (`quota`, of cgroup v2)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        limit, period = quota.read_text().split()
        return cores if limit == "max" else max(1, min(cores, math.ceil(int(limit) / int(period))))
    except (OSError, ValueError):  # another system, or none of its words
        return cores


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix=_PREFIX, frozen=True, extra="forbid", allow_inf_nan=False)

    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 for every interface.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    grpc_port: int = Field(0, ge=0, le=65535, description="Port for gRPC, answered by one more process; 0 is none.")
    registry: str = Field(
        "models", description="Folder or fsspec URL of the registry; several with commas between, earlier ones win."
    )
    model_dir: str | None = Field(
        None,
        description="Folder of one version (model.pt, manifest.json), served in place of a registry and never polled.",
    )
    model_name: str | None = Field(
        None, pattern=_NAME, description="What the model in --model-dir is called; by default as in its manifest."
    )
    trusted_keys: str | None = Field(
        None,
        description="File of public keys, one a line (python -m training keygen); "
        "versions that none of them signed are never opened.",
    )
    poll_seconds: _Seconds = Field(5.0, gt=0, description="How often the registry is looked at for changes.")
    keep_versions: int = Field(1, ge=0, description="Earlier versions in production that stay servable by ?version=.")
    cache_dir: str = Field(
        "",
        description="Folder for what a start without the registry needs; by default it lasts as long as the service.",
    )
    cache_bytes: int = Field(4 * 2**30, ge=0, description="Most bytes of artifacts in that folder.")
    default_model: str = Field(
        "mnist",
        description="Model that answers when a request names none; a registry of one model needs no such setting.",
    )
    require_models: str | None = Field(
        None,
        description="Models, joined by commas, without which the service is not ready; empty: none. "
        "By default the default model: --default-model if it is given, or the one that the registry has.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where models run; auto is CUDA if present.")
    http_processes: int = Field(
        default_factory=lambda: max(1, min(usable_cores() - 1, 256)),
        ge=1,
        le=256,
        description="Processes that speak HTTP; by default one for each core but one, which a worker needs.",
    )
    threads: int = Field(
        0, ge=0, le=256, description="Threads of a CPU worker in one model call; 0: all cores where it pays, else 1."
    )
    form: Literal["fastest", "published"] = Field(
        "fastest", description="How versions are computed: the fastest way that was proved to agree, or as published."
    )
    max_batch_size: int = Field(128, ge=1, le=65536, description="Most images that are computed together.")
    max_queue: int = Field(4096, ge=1, description="Most images that wait; beyond it the answer is 429.")
    timeout_seconds: float = Field(10.0, gt=0, le=3600, description="Deadline of a request, from its arrival.")
    max_body_bytes: int = Field(16 * 2**20, ge=1, description="Largest request body.")
    max_pixels: int = Field(32_000_000, ge=1, description="Largest image, in pixels, read from its header.")
    api_keys_file: str | None = Field(
        None, description="File of API keys; with it every request but health checks, /metrics and the pages needs one."
    )
    max_images: int = Field(1024, ge=1, description="Most images (or feature vectors) in one request.")
    startup_seconds: _Seconds = Field(120.0, gt=0, description="A worker that is not ready by then is replaced.")
    hang_seconds: _Seconds = Field(
        0.0, ge=0, description="A process that is silent this long is replaced; 0: half of timeout-seconds, at least 5."
    )
    isolation: Literal["none", "model"] = Field(
        "none", description="Whether each model has a worker of its own on each device (model) or all share one (none)."
    )
    worker_memory_bytes: int = Field(0, ge=0, description="A worker that holds more is replaced; 0: no limit.")
    max_failed_starts: int = Field(3, ge=1, description="Failed worker starts in a row before the service gives up.")
    max_short_lives: int = Field(10, ge=1, description="Workers in a row that may die soon after they came up.")
    selftest_seconds: _Seconds = Field(30.0, gt=0, description="How often a worker runs each golden sample again.")
    trial_seconds: _Seconds = Field(60.0, gt=0, description="Computing time that a version may take to be loaded.")
    trial_memory_bytes: int = Field(4 * 2**30, gt=0, description="Memory that a version may take to be loaded.")
    drain_seconds: _Seconds = Field(0.0, ge=0, description="After SIGTERM: not ready, but accepting, for this long.")
    shutdown_seconds: _Seconds = Field(20.0, gt=0, description="Longest wait for accepted requests when stopping.")
    feedback_predictions: int = Field(
        0, ge=0, le=1_000_000, description="Latest predictions that POST /feedback may be about; 0 takes no feedback."
    )
    feedback_dir: str = Field(
        "", description="Folder for feedback and the images that it is about; by default images are not kept."
    )
    feedback_bytes: int = Field(2**30, ge=0, description="Most bytes of images in that folder.")
    torchserve: bool = Field(
        False, description="Whether POST /predictions/NAME answers too, as TorchServe's image classifier does."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe log line.")
    log_format: Format = Field("text", description="How log lines look: text, or json for an object a line.")
    log_requests: float = Field(
        0.0, ge=0, description="Request lines a second, at most, failures first; 0 logs no requests."
    )

    otlp_endpoint: str | None = Field(
        None, description="URL of an OpenTelemetry collector that takes OTLP over HTTP; spans are exported to it."
    )

    @model_validator(mode="after")
    def _name_has_a_folder(self) -> Self:
        if self.model_name is not None and self.model_dir is None:
            raise ValueError("--model-name must be given with --model-dir. Given: alone")
        return self

    @property
    def required_models(self) -> frozenset[str] | None:
        """The models without which the service is not ready; None if they depend on what the registry holds."""
        if self.require_models is None:
            return frozenset({self.default_model}) if "default_model" in self.model_fields_set else None
        return frozenset(filter(None, map(str.strip, self.require_models.split(","))))

    @property
    def hang_limit_seconds(self) -> float:
        """After which a silent process is replaced: soon enough for others to be answered in the rest of their time."""
        return self.hang_seconds or max(_LEAST_HANG_SECONDS, self.timeout_seconds / 2)

    @property
    def front_processes(self) -> int:
        """The number of processes that take requests and share the queue: the HTTP processes and, if any, gRPC's."""
        return self.http_processes + bool(self.grpc_port)


def variable(name: str) -> str:
    """Return the environment variable of a setting."""
    return _PREFIX + name.upper()


def ignored_variables(environment: Iterable[str]) -> list[str]:
    """Return the variables that look like settings and are none, each with the setting whose name it almost has."""
    given = sorted(name for name in environment if name.startswith(_PREFIX) and name != _OF_CLIENTS)
    known = {name.upper() for name in Settings.model_fields}
    found = []
    for name in (name.removeprefix(_PREFIX) for name in given):
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
            found.append(f"{_PREFIX}{name}" + (f" ({_PREFIX}{close[0]}?)" if close else ""))
    return found
