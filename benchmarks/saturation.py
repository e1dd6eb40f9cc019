"""How much of the machine reaches the model: images/s served over images/s of a bare loop over full batches.

    python -m benchmarks.saturation --model cifar10

Both have the same TorchScript and the same cores; the service shares them with HTTP, decoding and the client (wrk).
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
import urllib.request
from pathlib import Path
from urllib.parse import urljoin

import orjson
import torch

from benchmarks.machine import describe
from benchmarks.pictures import mnist, noise
from benchmarks.serving.contestants import CONTESTANTS
from benchmarks.serving.load import closed_loop
from benchmarks.serving.requests import PNG
from benchmarks.serving.running import running
from benchmarks.serving.several import tensor
from service.contract.manifest import ImageInput
from service.contract.registry import ARTIFACT, Registry
from service.model import torchscript
from service.settings import Settings, usable_cores

CONNECTIONS = 256
WARM_SECONDS = 2


def bare_rate(network: torchscript.Network, batch: torch.Tensor, seconds: float) -> float:
    """Images/s of the network alone, with all cores."""
    torch.set_num_threads(usable_cores())
    with torch.inference_mode():
        for _ in range(3):  # TorchScript optimises in its first calls
            network(batch)
        begin, count = time.monotonic(), 0
        while time.monotonic() < begin + seconds:
            network(batch)
            count += len(batch)
        return count / (time.monotonic() - begin)


def form_at(url: str, model: str) -> str:
    """In which form a service at `url` computes a model."""
    with urllib.request.urlopen(urljoin(url, f"/v2/models/{model}")) as answer:
        form = orjson.loads(answer.read())["parameters"]
    return f"{form['form']}, {form['threads']} thread{'s' if form['threads'] > 1 else ''}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--registry", type=Path, default=Path("models"))
    parser.add_argument("--model", default="cifar10")
    parser.add_argument("--threads", type=int, nargs="+", default=[0, 1], help="of the worker, in turn; 0: its choice")
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--mnist", type=Path, default=Path(os.environ.get("MNIST_ROOT", "data")))
    arguments = parser.parse_args()

    registry = Registry(str(arguments.registry))
    manifest = registry.manifest(arguments.model, registry.resolve(arguments.model))
    spec = manifest.input
    if not isinstance(spec, ImageInput):
        parser.error(f"--model must take images. Given: {arguments.model}")
    pixels = mnist(arguments.mnist) if spec.shape == (1, 28, 28) else noise(spec.shape)
    posts = PNG.posts(pixels)
    path = (arguments.registry / arguments.model / str(manifest.version) / ARTIFACT).resolve()
    network = torchscript.load(path.read_bytes(), torch.device("cpu"))
    batch = tensor(pixels)[: Settings().max_batch_size]
    classes = network.run(batch[:1])[0].argmax(1).tolist()
    argmax = CONTESTANTS["argmax"]
    os.environ["SERVICE_DEFAULT_MODEL"] = arguments.model
    bare: list[float] = []
    served: dict[int, list[float]] = {threads: [] for threads in arguments.threads}
    forms: dict[int, str] = {}
    for _ in range(arguments.repeats):
        bare.append(bare_rate(network, batch, arguments.seconds))
        for port, threads in enumerate(arguments.threads, 18_400):
            os.environ["SERVICE_THREADS"] = str(threads)
            place = arguments.registry.resolve(), path
            with running(argmax, *place, first=posts, port=port) as runs:
                url = runs.url(PNG)
                if wrong := runs.wrong_answers(PNG, pixels[:1], classes):
                    raise RuntimeError(f"must name the right class of the first image. Given: {wrong} wrong answer")
                closed_loop(url, posts, connections=CONNECTIONS, seconds=WARM_SECONDS)
                result = closed_loop(url, posts, connections=CONNECTIONS, seconds=arguments.seconds)
                served[threads].append(result.rate)
                forms[threads] = form_at(url, arguments.model)
    whole = statistics.median(bare)
    name = f"{manifest.name}@{manifest.version}"
    print(f"{describe()}; {name}, {arguments.repeats} rounds of {arguments.seconds:g} s, medians.\n")
    print("| | images/s | of the bare loop |\n|---|---:|---:|")
    print(f"| bare loop, batches of {len(batch)} | {whole:,.0f} | 1.00 |")
    for threads, rates in served.items():
        rate = statistics.median(rates)
        how = f"{forms[threads]}{'' if threads else ', as the service chose'}"
        print(f"| served, {how} | {rate:,.0f} | {rate / whole:.2f} |")


if __name__ == "__main__":
    main()
