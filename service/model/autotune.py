"""Choice of the form in which a version serves: the fastest on this machine of those that may serve."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable
from typing import Literal

import torch

from service.contract.manifest import ModelManifest
from service.contract.variants import Form, FormName
from service.model import cuda
from service.model.model import Model, UnfitModelError

logger = logging.getLogger(__name__)

_ON = {"cpu": ("channels_last", "prepacked", "bfloat16"), "cuda": ("channels_last", "float16")}

_BETTER = 1.1
"""How many times faster than the best so far another form must be; measurements differ by less than that by chance."""

_THREADED_SECONDS = 100e-6
"""From here on an image is computed by all cores. A shorter one costs less than its request over HTTP, which wants a
core too, and so short a call loses more by waiting for other threads than it gains."""

_SECONDS = 0.02
"""About how long a batch that is measured takes."""

_LARGEST_BATCH = 64
_UNMEASURED_RUNS = 2  # TorchScript profiles in the first and optimises in the second
_RUNS = 3
_PATH_RUNS = 20

Measure = Callable[[Model, int], float]
"""Returns the seconds that a batch of so many inputs takes."""


def seconds_of(model: Model, size: int) -> float:
    """Measure a batch and return the least of up to three runs.

    On the CPU it is this thread's own time, which a busy machine does not stretch.
    """
    clock = time.thread_time if model.device.type == "cpu" else time.perf_counter
    for _ in range(_UNMEASURED_RUNS):
        model.run_blank(size)
    seconds: list[float] = []
    while len(seconds) < _RUNS and sum(seconds) < _SECONDS:
        started = clock()
        model.run_blank(size)
        seconds.append(clock() - started)
    return min(seconds)


def seconds_underway(model: Model, size: int) -> float:
    """Measure a batch as a worker under load computes it: the next one is started before the last is waited for.

    A batch of one is waited for at once, because it is what a worker computes for a single client.

    Raises:
        UnfitModelError: the model cannot compute a batch of that size.
    """
    for _ in range(_UNMEASURED_RUNS):
        model.run_blank(size)
    seconds = []
    for _ in range(_RUNS):
        started = time.perf_counter()
        last = None
        for _ in range(_PATH_RUNS):
            pending = model.start(model.batch(bytearray(size * model.input_bytes)))
            if last:
                last.outputs()
            last = pending
            if size == 1:
                last.outputs()
                last = None
        if last:
            last.outputs()
        seconds.append((time.perf_counter() - started) / _PATH_RUNS)
    return min(seconds)


def fastest(
    manifest: ModelManifest,
    artifact: bytes,
    device: torch.device,
    *,
    cores: int,
    threads: int = 0,
    forms: bool = True,
    name: FormName | Literal["published"] = "published",
    measure: Measure = seconds_of,
) -> Model:
    """Load the version in its fastest form on `device`.

    Without `forms` it is computed in the form `name`. `threads` is how many of them compute a batch on the CPU; 0
    means all `cores` for a network of which an image takes long enough, else 1.

    Raises:
        UnfitModelError: as it was published, it does not load, gives other logits than its golden sample's, or cannot
            compute a batch of some size.
    """
    best = Model(manifest, artifact, Form(name=name, device=str(device)))
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
                logger.warning("%s does not serve as %s: %s", best, name, error)
                continue
            if seconds * _BETTER < to_beat:
                best, to_beat = found, seconds
        if measures_threads and to_beat >= size * _THREADED_SECONDS:
            threads = cores
    best.form = best.form.model_copy(update={"threads": threads or 1})
    return best


def choose_path(model: Model, max_batch_size: int, measure: Measure = seconds_underway) -> None:
    """Let batches reach a CUDA device, and their logits come back, by the fastest path; the CPU has no choice.

    The pageable path is the one to beat: on an H100 the service's own way through pinned memory was half as fast.

    Raises:
        UnfitModelError: the model cannot compute a batch of some size.
    """
    if model.device.type != "cuda":
        return
    sizes = sorted({1, min(_LARGEST_BATCH, max_batch_size)})

    def seconds() -> float:
        return statistics.geometric_mean(measure(model, size) for size in sizes)

    pageable = seconds()
    model.use("pinned")
    pinned = seconds()
    fallback: cuda.Plain = "pinned" if pinned * _BETTER < pageable else "pageable"
    try:
        model.capture(max_batch_size)
        graphs = seconds()
    except UnfitModelError as error:
        logger.warning("%s serves without graphs: %s", model, error)
        graphs = float("inf")
    if graphs * _BETTER >= min(pageable, pinned):
        model.use(fallback)
    model.prove()
    path = "graphs" if model.form.graphs else fallback
    report = "%s goes through %s: a batch of %s takes %.0f us pageable, %.0f pinned, %.0f by graphs (geometric mean)"
    logger.info(report, model, path, " and ".join(map(str, sizes)), *(1e6 * s for s in (pageable, pinned, graphs)))
