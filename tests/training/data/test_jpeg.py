from __future__ import annotations

from pathlib import Path

import pytest
import torch
from imagecodecs import jpeg8_decode, jpeg8_encode
from torch import Generator, Tensor
from torch.nn.functional import interpolate

from training.data import jpeg, sources

SIDES = [(32, 32), (24, 24), (27, 21), (16, 40), (8, 8), (1, 3)]


def photographs(channels: int, height: int, width: int, n: int = 40) -> Tensor:
    """Smooth shapes with edges, shading and a little noise, in correlated colours."""
    generator = Generator().manual_seed(0)
    coarse = torch.rand(n, 1, 5, 5, generator=generator) + 0.3 * torch.rand(n, channels, 5, 5, generator=generator)
    smooth = interpolate(coarse, size=(height, width), mode="bicubic")
    edges = (interpolate(torch.rand(n, 1, 3, 3, generator=generator), size=(height, width)) > 0.6) * 0.3
    noise = 0.02 * torch.randn(n, channels, height, width, generator=generator)
    return ((smooth * 0.6 + edges + noise) * 220).clamp(0, 255).to(torch.uint8)


def qualities(n: int, lowest: int = 60, highest: int = 95) -> Tensor:
    return torch.randint(lowest, highest + 1, (n,), generator=Generator().manual_seed(1))


def by_libjpeg(images: Tensor, at: Tensor) -> Tensor:
    results = []
    for image, quality in zip(images, at.tolist(), strict=True):
        pixels = image.movedim(0, 2).contiguous().numpy()
        pixels = pixels[:, :, 0] if pixels.shape[2] == 1 else pixels
        decoded = jpeg8_decode(jpeg8_encode(pixels, level=quality, subsampling="420"))
        results.append(torch.from_numpy(decoded).reshape(*image.shape[1:], -1).movedim(2, 0))
    return torch.stack(results)


def distance(one: Tensor, other: Tensor) -> float:
    return (one.float() - other.float()).abs().mean().item()


@pytest.mark.parametrize("lowest", [10, 60], ids=["low quality", "high quality"])
@pytest.mark.parametrize("size", SIDES, ids=str)
@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "colour"])
def test_it_agrees_with_libjpeg_to_two_grey_levels(channels: int, size: tuple[int, int], lowest: int) -> None:
    images = photographs(channels, *size)
    at = qualities(len(images), lowest, lowest + 35)

    ours, theirs = jpeg.compress(images, at), by_libjpeg(images, at)

    assert distance(ours, theirs) < 2
    assert distance(ours, theirs) < 0.6 * distance(images, theirs) or distance(images, theirs) < 1


def test_a_border_that_is_no_whole_block_agrees_with_libjpeg_too() -> None:
    images = photographs(3, 27, 21)
    at = qualities(len(images))

    ours, theirs = jpeg.compress(images, at), by_libjpeg(images, at)

    assert distance(ours[:, :, -3:], theirs[:, :, -3:]) < 2
    assert distance(ours[:, :, :, -3:], theirs[:, :, :, -3:]) < 2


@pytest.mark.parametrize("quality", [1, 49, 50, 100])
def test_every_quality_means_what_it_means_to_libjpeg(quality: int) -> None:
    images = photographs(3, 32, 32)
    at = torch.full((len(images),), quality)

    ours, theirs = jpeg.compress(images, at), by_libjpeg(images, at)

    assert distance(ours, theirs) < 2


def test_each_image_has_its_own_quality_and_its_own_result_whatever_is_beside_it() -> None:
    images = photographs(3, 32, 32, n=300)
    at = qualities(300)

    together = jpeg.compress(images, at)

    alone = torch.cat([jpeg.compress(images[i : i + 1], at[i : i + 1]) for i in (0, 128, 299)])
    assert distance(together[[0, 128, 299]], alone) < 0.01


def test_no_images_are_no_images() -> None:
    assert jpeg.compress(torch.zeros(0, 3, 16, 16, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64)).shape[0] == 0


@pytest.fixture(scope="module")
def real_photographs(mnist_root: Path) -> Tensor:
    return sources.load("cifar10", "test-jpeg", mnist_root).inputs[::20]


@pytest.mark.data
@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "colour"])
def test_it_agrees_with_libjpeg_on_real_photographs(channels: int, real_photographs: Tensor) -> None:
    images = real_photographs[:, :channels]
    at = qualities(len(images))

    ours, theirs = jpeg.compress(images, at), by_libjpeg(images, at)

    assert distance(ours, theirs) < 1.5
    assert distance(ours, theirs) < 0.5 * distance(images, theirs)
