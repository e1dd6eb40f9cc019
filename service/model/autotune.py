"""Chooses the form in which a version serves: the fastest on this machine of those that were proved to agree."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable

import torch

from service.contract.manifest import ModelManifest
from service.contract.variants import Form
from service.model.model import Model, UnfitModelError

logger = logging.getLogger(__name__)

_ON = {"cpu": ("channels_last", "prepacked", "bfloat16"), "cuda": ("channels_last", "float16")}

_BETTER = 1.1
"""So many times as fast as the best so far another form must be: below that, measurements differ by chance."""

_THREADED_SECONDS = 100e-6
"""From here on an image takes all cores. One that takes less costs less than its request over HTTP does, which wants a
core too, and calls so short lose in waiting for each other's threads what they win."""

_SECONDS = 0.02
"""About as long computes a batch that is measured."""

_LARGEST_BATCH = 64
_GRAPHED_BATCHES = (1, 8, 64)
"""Sizes at which graphs are measured; what they save is the same for all, and what a batch takes is not."""

_UNMEASURED_RUNS = 2  # TorchScript profiles in the first and optimises in the second
_RUNS = 3

Measure = Callable[[Model, int], float]
"""Seconds that a batch of so many inputs takes."""


def seconds_of(model: Model, size: int) -> float:
    """The least of one or a few runs: by this thread's own time on the CPU, which a busy machine does not stretch."""
    clock = time.thread_time if model.device.type == "cpu" else time.perf_counter
    for _ in range(_UNMEASURED_RUNS):
        model.run_blank(size)
    seconds: list[float] = []
    while len(seconds) < _RUNS and sum(seconds) < _SECONDS:
        started = clock()
        model.run_blank(size)
        seconds.append(clock() - started)
    return min(seconds)


def fastest(
    manifest: ModelManifest,
    artifact: bytes,
    device: torch.device,
    *,
    cores: int,
    threads: int = 0,
    forms: bool = True,
    measure: Measure = seconds_of,
) -> Model:
    """The version in its fastest form on `device`.

    Without `forms` it is computed as it was published. `threads` is how many of them compute a batch on the CPU; 0
    means all `cores` for a network of which an image takes long enough, else 1.

    Raises:
        UnfitModelError: as it was published, it does not load, gives other logits than its golden sample's, or cannot
            compute a batch of some size.
    """
    best = Model(manifest, artifact, Form(device=str(device)))
    allowed = _ON.get(device.type, ())
    others = [name for name in manifest.forms if name in allowed] if forms else []
    measures_threads = device.type == "cpu" and not threads and cores > 1
    if others or measures_threads:
        size, to_beat = 1, measure(best, 1)
        if to_beat < _SECONDS:
            size = min(_LARGEST_BATCH, max(1, round(_SECONDS / max(to_beat, 1e-9))))
            to_beat = measure(best, size)
        for name in others:
            try:
                found = Model(manifest, artifact, Form(name=name, device=str(device)))
                seconds = measure(found, size)
            except UnfitModelError as error:
                logger.warning("%s serves in no form %s: %s", best, name, error)
                continue
            if seconds * _BETTER < to_beat:
                best, to_beat = found, seconds
        if measures_threads and to_beat >= size * _THREADED_SECONDS:
            threads = cores
    best.form = best.form.model_copy(update={"threads": threads or 1})
    return best


def graph(model: Model, max_batch_size: int, measure: Measure = seconds_of) -> None:
    """Have the model's batches computed by CUDA graphs if that is faster on this device; on the CPU there are none.

    Raises:
        UnfitModelError: it cannot compute a batch of some size.
    """
    if model.device.type != "cuda":
        return
    sizes = sorted({min(size, max_batch_size) for size in _GRAPHED_BATCHES})
    plain = [measure(model, size) for size in sizes]
    try:
        model.capture(max_batch_size)
        times = [before / measure(model, size) for before, size in zip(plain, sizes, strict=True)]
    except UnfitModelError as error:
        logger.warning("%s serves without graphs: %s", model, error)
        model.release()
        return
    if statistics.geometric_mean(times) < _BETTER:
        model.release()
