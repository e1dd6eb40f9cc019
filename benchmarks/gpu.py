"""Measure the paths by which batches reach a GPU.

    python -m benchmarks.gpu
    python -m benchmarks.gpu --model cifar10 --form float16 --sizes 1 32 128

Each way computes the same batches in this one process, without HTTP. "pageable" is torch as it is: copy, compute, copy
back, one after the other. The others are the service's paths, which `service.model.autotune` chooses from: "blocking"
waits for each batch, "overlapped" starts the next one before, as a worker under load does. The ways take turns, so that
whatever else happens to the machine happens to all of them. Exit status 2 without a CUDA device.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch

from benchmarks import machine
from service.contract.registry import Registry
from service.contract.variants import FORM_NAMES, Form
from service.model import torchscript
from service.model.model import Model, UnfitModelError

_WARM_UP_BATCHES = 5

Way = Callable[[int, int], object]
"""Computes so many batches of such a size."""


def pageable(network: torchscript.Network, model: Model, size: int, batches: int) -> None:
    """Each batch as `network(inputs.to(device)).cpu()`."""
    for _ in range(batches):
        with torch.inference_mode():
            inputs = model.batch(bytearray(size * model.input_bytes))
            network(inputs.to(model.device)).float().cpu()


def blocking(model: Model, size: int, batches: int) -> None:
    """Each batch waited for before the next is started."""
    for _ in range(batches):
        model.run(model.batch(bytearray(size * model.input_bytes)))


def overlapped(model: Model, size: int, batches: int) -> None:
    """The next batch started before the last is waited for."""
    last = model.start(model.batch(bytearray(size * model.input_bytes)))
    for _ in range(batches - 1):
        pending = model.start(model.batch(bytearray(size * model.input_bytes)))
        last.outputs()
        last = pending
    last.outputs()


def ways_of(registry: str, name: str, form: Form, largest: int) -> dict[str, Way]:
    """The ways to compute a model, each with a copy of its own."""
    source = Registry(registry)
    manifest = source.manifest(name, source.resolve(name))
    artifact = source.artifact(manifest)
    models = {path: Model(manifest, artifact, form) for path in ("pageable", "pinned", "graphs")}
    network = torchscript.load(artifact, models["pageable"].device, form.name)
    models["pinned"].use("pinned")
    try:
        models["graphs"].capture(largest)
    except UnfitModelError as error:
        print(f"without graphs: {error}", file=sys.stderr)
        del models["graphs"]
    ways: dict[str, Way] = {"pageable": partial(pageable, network, models["pageable"])}
    for path, model in models.items():
        ways[f"service {path}, blocking"] = partial(blocking, model)
        if path != "pageable":  # where a batch is computed when it is started
            ways[f"service {path}, overlapped"] = partial(overlapped, model)
    return ways


def seconds_of(ways: Mapping[str, Way], size: int, *, batches: int, rounds: int) -> dict[str, float]:
    """The median over the rounds of what a batch takes each way."""
    for way in ways.values():
        way(size, _WARM_UP_BATCHES)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            started = time.perf_counter()
            way(size, batches)
            seconds[name].append((time.perf_counter() - started) / batches)
    return {name: statistics.median(found) for name, found in seconds.items()}


def table(seconds: Mapping[int, Mapping[str, float]]) -> str:
    """A line for each way and a column for each size; ratios are to the first way."""
    names = list(next(iter(seconds.values())))
    heads = [f"{size} image{'s' if size > 1 else ''} in a batch" for size in seconds]
    lines = [f"| images/s (µs a batch, times the first) | {' | '.join(heads)} |", "|---|" + "---:|" * len(heads)]
    for name in names:
        cells = [
            f"{size / found[name]:,.0f} ({found[name] * 1e6:,.0f}, {found[names[0]] / found[name]:.2f})"
            for size, found in seconds.items()
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--registry", default="models", help="folder or URL")
    parser.add_argument("--model", default="neural_net")
    parser.add_argument("--form", choices=("published", *FORM_NAMES), default="published")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 8, 64, 128])
    parser.add_argument("--batches", type=int, default=500, help="in a round")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("a CUDA device is needed. Given: none that torch can see", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    torchscript.start()
    form = Form(name=options.form, device=options.device)
    ways = ways_of(options.registry, options.model, form, max(options.sizes))
    print(f"{options.model} ({form}) on {torch.cuda.get_device_name(options.device)}, {machine.describe()}\n")
    print(
        table({size: seconds_of(ways, size, batches=options.batches, rounds=options.rounds) for size in options.sizes})
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
