"""How fast `python -m service score` is: beside a bare loop, with more actors, and whether its memory grows.

    python -m benchmarks.bulk loop      one process beside a loop of a few lines that decodes and computes the same
    python -m benchmarks.bulk actors    two actors on Ray beside one, where decoding outweighs the model; two free cores
    python -m benchmarks.bulk memory    peak memory of one process over 100,000 images, at every tenth of them

Each measurement is of a warm process: loading the model is not counted. Rounds alternate, the medians are printed.
"""

from __future__ import annotations

import argparse
import functools
import os
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.machine import describe
from benchmarks.pictures import mnist, noise, pngs
from service.bulk import local, on_ray
from service.bulk.on_ray import Actors
from service.bulk.run import Engine, finish, prepare
from service.bulk.scoring import Scorer
from service.contract.manifest import ImageInput
from service.contract.registry import Registry
from service.images.decode import decode
from service.model import torchscript
from service.model.model import Model
from service.rollout.loader import load_on
from service.settings import Settings, usable_cores
from tests.registries import RGB, publish

CPU = torch.device("cpu")
PHOTO = (1600, 1200)  # pixels of a picture whose decoding outweighs a small model


def write(folder: Path, files: list[bytes], count: int, suffix: str = "png") -> Path:
    """Write `count` files, 1,000 in a folder, of which the given ones repeat."""
    for number in range(count):
        path = folder / f"{number // 1000:04d}" / f"{number:07d}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(files[number % len(files)])
    return folder


def images_for(name: str, root: Path) -> list[bytes]:
    """PNG files of a model's size: MNIST's own if they are there, else noise."""
    if name == "mnist" and (root / "MNIST" / "raw").exists():
        return pngs(mnist(root))
    channels, height, width = Registry("models").manifest(name, Registry("models").resolve(name)).input.shape
    return pngs(noise((channels, height, width)))


def photos(count: int = 16) -> list[bytes]:
    """JPEGs of `PHOTO`: smooth colours with some noise, about 300 kB each."""
    import io

    random = np.random.default_rng(0)
    made = []
    for _ in range(count):
        small = Image.fromarray(random.integers(0, 256, (12, 16, 3), np.uint8)).resize(PHOTO, Image.Resampling.BICUBIC)
        pixels = np.asarray(small, np.int16) + random.integers(-12, 13, (PHOTO[1], PHOTO[0], 3))
        buffer = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=85)
        made.append(buffer.getvalue())
    return made


class Clock:
    """Images a second, and microseconds of computing an image, since it was made."""

    def __init__(self) -> None:
        self._started, self._computed = time.perf_counter(), time.process_time()

    def read(self, images: int) -> tuple[float, float]:
        seconds, computed = time.perf_counter() - self._started, time.process_time() - self._computed
        return images / seconds, computed / images * 1e6


def bare_loop(model: Model, paths: list[Path], settings: Settings) -> tuple[float, float]:
    """Read, decode and compute batch by batch in one thread."""
    spec = model.manifest.input
    assert isinstance(spec, ImageInput)
    clock = Clock()
    found = []
    for start in range(0, len(paths), settings.max_batch_size):
        data = bytearray()
        for path in paths[start : start + settings.max_batch_size]:
            data += decode(path.read_bytes(), spec, max_pixels=settings.max_pixels)
        found.append(model.run(model.batch(data)).class_ids)
    assert sum(map(len, found)) == len(paths)
    return clock.read(len(paths))


def by_shards(scorer: Scorer, shards: int, images: int, out: Path) -> tuple[float, float]:
    """Score every shard and write its part."""
    for part in out.glob("part-*"):
        part.unlink()
    clock = Clock()
    assert sum(scorer.score(shard).images for shard in range(shards)) == images
    return clock.read(images)


def loop(name: str, count: int, rounds: int, root: Path, folder: Path) -> None:
    """Print a row: the bare loop beside a shard of the same images, with the model in the same form and threads."""
    settings = Settings(form="published", threads=usable_cores() if name == "cifar10" else 1)
    source = write(folder / f"{name}-images", images_for(name, root), count)
    registry = Registry(settings.registry)
    manifest = registry.manifest(name, registry.resolve(name))
    work = prepare(str(source), str(folder / name), manifest, settings, shard_size=8192)
    torchscript.start()
    model = load_on(CPU, settings, manifest, registry.artifact(manifest))
    scorer = Scorer(work.job, device=CPU, cores=usable_cores())
    paths = sorted(source.rglob("*.png"))
    bare, ours = [], []
    for _ in range(rounds):
        bare.append(bare_loop(model, paths, settings))
        ours.append(by_shards(scorer, work.plan.shards, count, folder / name))
    (loops, loop_us), (shards, shard_us) = (map(statistics.median, zip(*found, strict=True)) for found in (bare, ours))
    rates = f"{loops:,.0f} | {shards:,.0f} | {shards / loops:.2f}"
    print(f"| {name} | {rates} | {loop_us:,.0f} | {shard_us:,.0f} | {loop_us / shard_us:.2f} |", flush=True)


def of_ray(
    source: Path, out: Path, engine: Engine, name: str, shard_size: int, settings: Settings
) -> tuple[float, int]:
    """Score a collection; return the seconds from its first quarter's end to the last part, and the images between.

    In the first quarter a second actor may still be starting.
    """
    shutil.rmtree(out, ignore_errors=True)
    registry = Registry(settings.registry)
    manifest = registry.manifest(name, registry.resolve(name))
    work = prepare(str(source), str(out), manifest, settings, shard_size=shard_size)
    result = finish(work, engine, lambda _: None)
    assert not result.missing, result
    times = sorted(path.stat().st_mtime for path in out.glob("part-*"))
    begun = len(times) // 4
    return times[-1] - times[begun], (len(times) - 1 - begun) * shard_size


def actors(count: int, rounds: int, folder: Path) -> None:
    """Print images a second of one actor and of two; what they need to start is left out."""
    import ray

    publish(folder / "registry", "rows", spec=RGB)  # it adds up pixels: decoding is all there is to do
    settings = Settings(registry=str(folder / "registry"), form="published", threads=1)
    files = sorted(write(folder / "photos", photos(), min(count, 256), "jpg").rglob("*.jpg"))
    source = folder / "list.txt"
    source.write_text("".join(f"{files[number % len(files)]}\n" for number in range(count)))
    os.environ["RAY_AUTH_MODE"] = "disabled"
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - Ray spells it so; as other processes of this machine
    on_ray.connect(None)
    rates: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(rounds):
        for number, found in rates.items():
            engine = functools.partial(on_ray.score, address=None, actors=Actors(number))
            seconds, images = of_ray(source, folder / "out", engine, "rows", 32, settings)
            found.append(images / seconds)
    ray.shutdown()
    one, two = (statistics.median(found) for found in rates.values())
    print("| one actor, images/s | two actors | ratio |\n|---:|---:|---:|")
    print(f"| {one:,.1f} | {two:,.1f} | {two / one:.2f} |")


def memory(count: int, root: Path, folder: Path) -> None:
    """Print the peak of this process's memory at each tenth of a collection."""
    settings = Settings(registry=str(Path("models").resolve()))
    files = sorted(write(folder / "images", images_for("mnist", root), 1_000).rglob("*.png"))
    source = folder / "list.txt"  # the same files again and again: to write 100,000 takes longer than to score them
    source.write_text("".join(f"{files[number % len(files)]}\n" for number in range(count)))
    registry = Registry(settings.registry)
    manifest = registry.manifest("mnist", registry.resolve("mnist"))
    work = prepare(str(source), str(folder / "out"), manifest, settings, shard_size=8192)
    done, shown = 0, 0
    print("| images | peak memory, MiB |\n|---:|---:|")

    def advance(images: int) -> None:
        nonlocal done, shown
        done += images
        if done * 10 // count > shown:
            shown = done * 10 // count
            print(f"| {done:,} | {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} |", flush=True)

    started = time.perf_counter()
    result = finish(work, local.score, advance)
    seconds = time.perf_counter() - started
    print(
        f"\n{result.images:,} images in {seconds:.0f} s ({result.images / seconds:,.0f}/s), with planning not counted"
    )


def main() -> None:
    """Measure one of the three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("loop", "actors", "memory"))
    parser.add_argument("--root", type=Path, default=Path(os.environ.get("MNIST_ROOT", "../shared/data")))
    parser.add_argument("--model", choices=("mnist", "cifar10"), help="of loop; default: both")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, help="Default: 1,024 of cifar10, 16,384 of mnist; 2,048 photos; 100,000")
    arguments = parser.parse_args()
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    print(describe(), end="\n\n")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        measure: Callable[[], None]
        if arguments.what == "loop":
            print("| model | bare loop, images/s | score | ratio | CPU µs an image, loop | score | ratio |")
            print("|---|---:|---:|---:|---:|---:|---:|")
            for name, count in (("mnist", 16_384), ("cifar10", 1_024)):
                if arguments.model not in (None, name):
                    continue
                loop(name, arguments.images or count, arguments.rounds, arguments.root, folder)
            return
        if arguments.what == "actors":
            measure = functools.partial(actors, arguments.images or 2_048, arguments.rounds, folder)
        else:
            measure = functools.partial(memory, arguments.images or 100_000, arguments.root, folder)
        measure()


if __name__ == "__main__":
    main()
