"""Measure what a swap costs those who are being served: p99 at full load with versions arriving, and without.

    python -m benchmarks.swaps
    python -m benchmarks.swaps --model xigua --swaps 20 --connections 64

The same artifact is published again and again while a closed loop keeps the service at full load, so that every version
costs a whole fetch, trial, load and warm-up. A window with a swap reaches from publishing until a second after the new
version's first answer; between two of them lies a window without, as long as the one before it. Two cores or more, and
nothing else on them: it is a p99 that is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import platform
import re
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import uvloop
from PIL import Image

from benchmarks.serving.contestants import CONTESTANTS
from benchmarks.serving.load import Posts
from benchmarks.serving.running import running
from service.contract.manifest import ModelManifest
from service.contract.registry import Registry
from tests.ports import free_port

_AFTER_SECONDS = 1.0
_LEAST_SECONDS = 2.0
_SWAP_TIMEOUT_SECONDS = 600
_VERSION = re.compile(rb"x-model-version: (\d+)")
_LENGTH = re.compile(rb"content-length: (\d+)")


class Answered(NamedTuple):
    """One answer; times in seconds."""

    at: float
    latency: float
    version: int


class Load:
    """A closed loop of connections that send an image again as soon as they are answered."""

    def __init__(self, port: int, model: str, image: bytes) -> None:
        self._port = port
        self._request = (
            f"POST /predict?model={model} HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
            f"Content-Length: {len(image)}\r\n\r\n"
        ).encode() + image
        self.answers: list[Answered] = []
        self.errors = 0
        self.newest = 0

    async def run(self, connections: int) -> None:
        await asyncio.gather(*(self._send_on() for _ in range(connections)))

    async def _send_on(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        while True:
            started = time.perf_counter()
            writer.write(self._request)
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(_LENGTH.search(head)[1]))  # type: ignore[index]
            now = time.perf_counter()
            version = _VERSION.search(head)
            if not head.startswith(b"HTTP/1.1 200") or not version:
                self.errors += 1
                continue
            self.newest = max(self.newest, int(version[1]))
            self.answers.append(Answered(now, now - started, int(version[1])))


class Window(NamedTuple):
    begin: float
    end: float
    swap: bool


async def measure(load: Load, registry: Registry, model: str, *, swaps: int, connections: int) -> list[Window]:
    """Publish `swaps` versions under load; gives the windows, turn about without a swap and with one."""
    sending = asyncio.create_task(load.run(connections))
    await asyncio.sleep(_LEAST_SECONDS)
    load.answers.clear()
    windows = []
    quiet = _LEAST_SECONDS
    for _ in range(swaps):
        begin = time.perf_counter()
        await asyncio.sleep(quiet)
        middle = time.perf_counter()
        version = await asyncio.to_thread(publish_again, registry, model)
        async with asyncio.timeout(_SWAP_TIMEOUT_SECONDS):
            while load.newest < version:
                await asyncio.sleep(0.01)
        await asyncio.sleep(_AFTER_SECONDS)
        end = time.perf_counter()
        windows += [Window(begin, middle, swap=False), Window(middle, end, swap=True)]
        quiet = max(_LEAST_SECONDS, end - middle)
    sending.cancel()
    return windows


def publish_again(registry: Registry, model: str) -> int:
    """Publish the version that is served once more; gives its new number."""
    manifest = registry.manifest(model, registry.resolve(model))

    def describe(version: int, _: object) -> ModelManifest:
        return manifest.model_copy(update={"version": version})

    return registry.publish(model, registry.artifact(manifest), describe).version


def report(load: Load, windows: list[Window]) -> float:
    """Print p99 with swaps and without; gives their ratio."""
    medians = {}
    for swap in (False, True):
        chosen = [window for window in windows if window.swap is swap]
        latencies = [[a.latency for a in load.answers if w.begin <= a.at < w.end] for w in chosen]
        tails = [float(np.percentile(window, 99)) for window in latencies]
        pooled = np.concatenate(latencies)
        medians[swap] = statistics.median(tails)
        seconds = sum(w.end - w.begin for w in chosen)
        print(
            f"{'with a swap' if swap else 'without':<12} {len(chosen):>3} windows, {seconds:6.1f} s, "
            f"{len(pooled) / seconds:8,.0f} answers/s   p99 of a window: median {medians[swap] * 1e3:7.2f} ms, "
            f"worst {max(tails) * 1e3:7.2f} ms   longest {pooled.max() * 1e3:7.2f} ms"
        )
    return medians[True] / medians[False]


def main() -> int:
    """Run the benchmark; gives 0 if no request failed and a swap at most doubled p99."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="neural_net")
    parser.add_argument("--registry", type=Path, default=Path("models"))
    parser.add_argument("--swaps", type=int, default=10)
    parser.add_argument("--connections", type=int, default=64)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        shutil.copytree(options.registry / options.model, root / options.model)
        registry = Registry(root)
        manifest = registry.manifest(options.model, registry.resolve(options.model))
        image = png_of(manifest)
        artifact = root / options.model / str(manifest.version) / "model.pt"
        first = Posts([image], {"Content-Type": "image/png"})
        with running(CONTESTANTS["argmax"], root, artifact, first=first, port=free_port()) as argmax:
            load = Load(argmax.port, options.model, image)
            windows = uvloop.run(
                measure(load, registry, options.model, swaps=options.swaps, connections=options.connections)
            )
    print(f"{options.model}, {options.connections} connections, {platform.processor() or platform.machine()}")
    ratio = report(load, windows)
    print(f"p99 with a swap is {ratio:.2f} times p99 without; {load.errors} requests failed")
    return 0 if ratio <= 2 and not load.errors else 1


def png_of(manifest: ModelManifest) -> bytes:
    """The first image of the golden sample."""
    channels, height, width = manifest.input.shape
    pixels = np.frombuffer(manifest.golden.raw_inputs(), np.uint8)[: channels * height * width]
    image = pixels.reshape(channels, height, width).transpose(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(image[:, :, 0] if channels == 1 else image).save(buffer, "PNG")
    return buffer.getvalue()


if __name__ == "__main__":
    sys.exit(main())
