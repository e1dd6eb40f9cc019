"""Ordinary windows stay within the limits, and those of altered pictures do not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.random import Generator
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from service.contract.manifest import Distribution, Distributions
from service.contract.registry import Registry
from service.model.distributions import bins_of_classes, bins_of_values, distance
from training.data import sources
from training.data.dataset import Dataset
from training.publishing.distributions import WINDOW, distributions
from training.publishing.evaluate import logits_of
from training.publishing.export import load_columns

Outputs = tuple[Tensor, Tensor]  # logits [N, K] and scores [N]

WITHIN = 500
"""Images in a row within which altered ones must be told."""


def noisy(images: Tensor) -> Tensor:
    noise = 64 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return (images.float() + noise).clamp(0, 255).byte()


def rotated(images: Tensor, degrees: float = 45) -> Tensor:
    angle = torch.tensor(degrees).deg2rad()
    turn = torch.tensor([[angle.cos(), -angle.sin(), 0], [angle.sin(), angle.cos(), 0]])
    grid = affine_grid(turn.expand(len(images), 2, 3), list(images.shape), align_corners=False)
    return grid_sample(images.float(), grid, align_corners=False).byte()


ALTERED: dict[str, Callable[[Tensor], Tensor]] = {
    "inverted": lambda images: 255 - images,
    "rotated": rotated,
    "upright to lying": lambda images: images.rot90(1, (2, 3)),
    "noisy": noisy,
}


def of_each(found: Distributions, logits: Tensor, scores: Tensor) -> Iterator[tuple[Distribution, np.ndarray]]:
    probabilities = logits.double().softmax(1)
    assert found.scores is not None
    yield found.classes, bins_of_classes(probabilities.argmax(1).numpy(), found.classes)
    yield found.confidences, bins_of_values(probabilities.amax(1).float().numpy(), found.confidences)
    yield found.scores, bins_of_values(scores.numpy(), found.scores)


def ratios(found: Distributions, window: Outputs) -> list[float]:
    return [
        float(distance(np.bincount(bins, minlength=len(known.counts)), np.array(known.counts))) / known.limit
        for known, bins in of_each(found, *window)
    ]


def alarms(found: Distributions, others: Outputs, chance: Generator, windows: int) -> int:
    """Count the windows beyond a limit among `windows` random ones of `others`."""
    places = np.concatenate([chance.permutation(len(others[0])) for _ in range(windows * WINDOW // len(others[0]))])
    number = len(places) // WINDOW
    beyond = np.zeros(number, bool)
    for known, bins in of_each(found, *others):
        size = len(known.counts)
        of_windows = bins[places[: number * WINDOW]].reshape(number, WINDOW) + size * np.arange(number)[:, None]
        counts = np.bincount(of_windows.ravel(), minlength=number * size).reshape(number, size)
        beyond |= distance(counts, np.array(known.counts)) > known.limit
    return int(beyond.sum())


def examples(n: int, seed: int) -> Outputs:
    """Return outputs as networks give them: some classes are rarer, and confidence and score have to do with both."""
    chance = torch.Generator().manual_seed(seed)
    labels = (torch.rand(n, generator=chance) ** 1.5 * 10).long()
    difficulty = torch.rand(n, generator=chance) ** 2
    logits = torch.randn(n, 10, generator=chance)
    logits[torch.arange(n), labels] += 12 * (1 - difficulty)
    return logits, difficulty + 0.1 * torch.randn(n, generator=chance) + 0.02 * labels


def test_one_ordinary_window_in_a_thousand_or_fewer_is_beyond_a_limit() -> None:
    chance = np.random.default_rng(1)
    logits, scores = examples(9000, seed=2)
    found, windows = 0, 0
    for held_out in (3000, 500, 200):
        mixed = torch.tensor(chance.permutation(len(logits)))
        known, others = mixed[:held_out], mixed[-6000:]
        # As a recipe doubles what it held out, to fit on altered copies too.
        twice = logits[known].repeat(2, 1), scores[known].repeat(2)
        published = distributions(*twice, temperature=1.0, data="held-out")
        found += alarms(published, (logits[others], scores[others]), chance, 3000)
        windows += 3000

    assert found <= windows / 1000


def test_what_is_rounded_differently_elsewhere_moves_no_prediction_to_another_bin() -> None:
    logits = torch.zeros(1000, 3)
    logits[:, 0] = 30.0  # confidences of 1, or next to it
    logits[:100, 1] = 28.0

    found = distributions(logits, None, temperature=1.0, data="held-out")

    assert found.scores is None
    assert found.confidences.edges[-1] <= 0.9999
    assert found.confidences.counts[-1] == 900


def test_a_network_of_many_classes_has_bins_of_several(digits: Dataset) -> None:
    found = distributions(torch.eye(100).repeat(3, 1), None, temperature=1.0, data="held-out")

    assert found.classes.counts == (12,) * 4 + (9,) * 28


def linear(train: Dataset) -> Callable[[Tensor], Outputs]:
    """Return a classifier that compares with each class's mean picture; a score is the distance to the next one."""
    flat = train.inputs.flatten(1).float()
    means = torch.stack([flat[train.labels == label].mean(0) for label in range(10)])

    def outputs(images: Tensor) -> Outputs:
        distances = torch.cdist(images.flatten(1).float(), means)
        return -distances / 50, distances.amin(1)

    return outputs


def test_altered_digits_are_told_and_ordinary_ones_are_not(digits: Dataset, digits_test: Dataset) -> None:
    outputs = linear(digits)
    half = len(digits_test) // 2
    rest = digits_test.inputs[half:].repeat(3, 1, 1, 1)[:WINDOW]

    known = distributions(*outputs(digits_test.inputs[:half]), temperature=1.0, data="held-out")

    assert len(rest) == WINDOW
    assert max(ratios(known, outputs(rest))) < 1
    for how, alter in ALTERED.items():
        assert max(ratios(known, outputs(alter(rest)))) > 1, how


@pytest.mark.data
def test_altered_mnist_is_told_within_500_images_and_its_test_split_is_ordinary(mnist_root: Path) -> None:
    registry = Registry("models")
    manifest = registry.manifest("mnist", registry.resolve("mnist"))
    classifier = load_columns(registry.artifact(manifest), torch.device("cpu"))
    test = sources.load("mnist", "test", mnist_root, style="mnist")
    mixed = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[:7000]
    held_out = Dataset(**{**vars(test), "inputs": test.inputs[mixed[:3000]], "labels": test.labels[mixed[:3000]]})

    columns = logits_of(classifier, held_out.inputs)
    found = distributions(columns[:, :-1], columns[:, -1], temperature=manifest.temperature, data=held_out.title)

    def outputs(images: Tensor) -> Outputs:
        columns = logits_of(classifier, images)
        return columns[:, :-1] / manifest.temperature, columns[:, -1]

    images = test.inputs[mixed[3000:]]
    assert alarms(found, outputs(images), np.random.default_rng(0), 2000) <= 2
    for how, alter in ALTERED.items():
        assert max(ratios(found, outputs(alter(images[: min(WITHIN, WINDOW)])))) > 2, how
