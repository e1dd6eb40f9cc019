"""What drift detection sees of altered images, and how often it takes ordinary ones for drift: one window at a time.

    python -m benchmarks.drift --data-dir PATH [--registry models] [--models mnist cifar10]

The images are those that a version's accuracy was measured on; 400 of the first split, drawn by seed 0, are altered. A
cell is the largest of a window's three ratios, as `inference_drift_ratio` would be.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from benchmarks.machine import describe
from service.contract.manifest import Distribution, ImageInput, ModelManifest
from service.contract.registry import Registry
from service.images.decode import decode
from service.model.distributions import Counts, bins_of_classes, bins_of_values, distance
from training.data import sources
from training.publishing.evaluate import logits_of
from training.publishing.export import load_columns
from training.publishing.prediction_sets import probabilities

RANDOM_WINDOWS = 5_000
WINDOWS_OF_A_HALF = 1_000

Alter = Callable[[Tensor], Tensor]
Binned = list[tuple[Distribution, Counts]]  # each distribution of a version, and the bin of every image


def rotated(degrees: float) -> Alter:
    def alter(images: Tensor) -> Tensor:
        angle = torch.tensor(degrees).deg2rad()
        turn = torch.tensor([[angle.cos(), -angle.sin(), 0], [angle.sin(), angle.cos(), 0]])
        grid = affine_grid(turn.expand(len(images), 2, 3), list(images.shape), align_corners=False)
        return grid_sample(images.float(), grid, align_corners=False).round().byte()

    return alter


def noisy(deviation: float) -> Alter:
    def alter(images: Tensor) -> Tensor:
        noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
        return (images.float() + 255 * deviation * noise).clamp(0, 255).round().byte()

    return alter


def as_pngs(spec: ImageInput, images: Tensor) -> Tensor:
    """Return what the service makes of the images when they come as PNGs."""
    inputs = torch.empty_like(images)
    for place, pixels in enumerate(images.permute(0, 2, 3, 1).numpy()):
        file = io.BytesIO()
        Image.fromarray(pixels.squeeze()).save(file, "PNG")
        decoded = decode(file.getvalue(), spec, max_pixels=2**16)
        inputs[place] = torch.frombuffer(bytearray(decoded), dtype=torch.uint8).view(images.shape[1:])
    return inputs


def rows(spec: ImageInput) -> dict[str, Alter]:
    """Return the rows of the table, each with how its images are altered."""
    return {
        "as they are": lambda images: images,
        "inverted, as a tensor": lambda images: 255 - images,
        "inverted, as a PNG": lambda images: as_pngs(spec, 255 - images),
        **{f"rotated by {degrees} degrees": rotated(degrees) for degrees in (15, 30, 45, 90, 180)},
        **{f"Gaussian noise of deviation {deviation:g}": noisy(deviation) for deviation in (0.05, 0.1, 0.2, 0.3)},
    }


class Version:
    """A version with distributions, which says in which of their bins each image is."""

    def __init__(self, registry: Registry, name: str) -> None:
        self.manifest: ModelManifest = registry.manifest(name, registry.resolve(name))
        self._classifier = load_columns(registry.artifact(self.manifest), torch.device("cpu"))

    def bins(self, images: Tensor) -> Binned:
        known = self.manifest.distributions
        assert known is not None
        columns = logits_of(self._classifier, images)
        found = probabilities(columns[:, :-1], self.manifest.temperature)
        confidences = found.amax(1).float().numpy()
        binned = [
            (known.classes, bins_of_classes(found.argmax(1).numpy(), known.classes)),
            (known.confidences, bins_of_values(confidences, known.confidences)),
        ]
        if known.scores is not None:
            binned.append((known.scores, bins_of_values(columns[:, -1].numpy(), known.scores)))
        return binned


def largest_ratio(binned: Binned, places: Counts | slice = slice(None)) -> float:
    """Return the largest ratio of the window that the images at `places` make."""
    return max(
        float(distance(np.bincount(bins[places], minlength=len(known.counts)), np.array(known.counts))) / known.limit
        for known, bins in binned
    )


def alarms(binned: Binned, places: Counts, windows: int, size: int) -> int:
    """Count the random windows of the images at `places` that are taken for drift."""
    chance = np.random.default_rng(0)
    return sum(largest_ratio(binned, chance.choice(places, size, replace=False)) > 1 for _ in range(windows))


def report(version: Version, data_dir: Path) -> None:
    """Print what a version sees on the splits that it was measured on."""
    manifest = version.manifest
    spec, known = manifest.input, manifest.distributions
    measured_on = [metric.data for metric in manifest.metrics if metric.name == "accuracy"]
    if known is None or not isinstance(spec, ImageInput):
        return
    splits = {
        title: sources.load(*title.split("/"), data_dir, style=spec.style, fit=spec.fit).inputs
        for title in measured_on
        if not title.endswith("/held-out")
    }
    title, images = next(iter(splits.items()))
    window = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[: known.window]]
    print(f"\n{manifest.name}@{manifest.version} on {title}\n\n| altered | largest ratio |\n|---|---:|")
    for name, alter in rows(spec).items():
        print(f"| {name} | {largest_ratio(version.bins(alter(window))):.1f} |", flush=True)
    for title, images in splits.items():
        binned, places = version.bins(images), np.arange(len(images))
        found = alarms(binned, places, RANDOM_WINDOWS, known.window)
        first, second = (alarms(binned, half, WINDOWS_OF_A_HALF, known.window) for half in np.array_split(places, 2))
        print(f"\nTaken for drift: {found} of {RANDOM_WINDOWS:,} random windows of {title};", flush=True)
        print(f"{first} and {second} of {WINDOWS_OF_A_HALF:,} of its first and its second half.", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, help="Folder with the files of MNIST and CIFAR-10.")
    parser.add_argument("--registry", default="models")
    parser.add_argument("--models", nargs="+", default=["mnist", "neural_net", "cifar10", "xigua"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(describe())
    registry = Registry(options.registry)
    for name in options.models:
        report(Version(registry, name), options.data_dir)


if __name__ == "__main__":
    main()
