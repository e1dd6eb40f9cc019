"""Corrupted copies: sixteen kinds that grow worse with each severity, the same for the same seed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from training.data.corruptions import SEVERITIES, corrupted, kinds_for
from training.data.dataset import Dataset

PHOTOS = torch.zeros(1, 3, 32, 32)
INK = torch.zeros(1, 1, 28, 28)


@pytest.fixture(scope="module")
def photos() -> Tensor:
    """Smooth colour images with an edge, each different."""
    coarse = torch.rand(12, 3, 6, 6, generator=torch.Generator().manual_seed(0)) * 255
    images = torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bicubic").clamp(0, 255).to(torch.uint8)
    images[:, :, 10:20, 12:18] = 230
    return images


def distance(images: Tensor, kind: str, severity: int, *, seed: int = 0) -> float:
    changed = corrupted(images, kind, severity, seed=seed)
    return (changed.float() - images.float()).square().mean().item()


def test_there_are_sixteen_kinds_for_photographs_and_for_ink_whose_colour_cannot_be_changed() -> None:
    assert len(kinds_for(PHOTOS)) == len(kinds_for(INK)) == 16
    assert set(kinds_for(PHOTOS)) ^ set(kinds_for(INK)) == {"saturate", "gaussian blur"}


@pytest.mark.parametrize("kind", sorted({*kinds_for(PHOTOS), *kinds_for(INK)}))
def test_a_copy_is_the_same_each_time_of_the_same_shape_and_changed(kind: str, photos: Tensor) -> None:
    original = photos.clone()

    changed, again = (corrupted(photos, kind, 3) for _ in range(2))

    assert (changed.dtype, changed.shape) == (torch.uint8, photos.shape)
    assert torch.equal(changed, again)
    assert torch.equal(photos, original)
    assert (changed != photos).flatten(1).any(1).all()


@pytest.mark.parametrize("kind", sorted({*kinds_for(PHOTOS), *kinds_for(INK)} - {"saturate", "elastic"}))
def test_the_highest_severity_changes_an_image_more_than_the_lowest(kind: str, photos: Tensor) -> None:
    assert distance(photos, kind, 5) > 1.3 * distance(photos, kind, 1)


@pytest.mark.parametrize("kind", kinds_for(INK))
def test_digits_are_corrupted_too_as_strongly_as_ink_needs(kind: str, digits_test: Dataset) -> None:
    few = digits_test.inputs[:8]

    for severity in SEVERITIES:
        changed = corrupted(few, kind, severity, style="mnist")
        assert changed.shape == few.shape
        assert not torch.equal(changed, few)


def test_another_seed_gives_other_noise(photos: Tensor) -> None:
    assert not torch.equal(corrupted(photos, "snow", 2), corrupted(photos, "snow", 2, seed=1))


def test_noise_has_the_deviation_that_its_severity_says() -> None:
    grey = torch.full((20, 3, 32, 32), 128, dtype=torch.uint8)

    for severity, deviation in zip(SEVERITIES, (0.04, 0.06, 0.08, 0.09, 0.10), strict=True):
        noise = (corrupted(grey, "gaussian noise", severity).float() - 128) / 255
        assert noise.std().item() == pytest.approx(deviation, rel=0.03)
    specks = corrupted(grey, "impulse noise", 5)
    assert ((specks == 0) | (specks == 255)).float().mean().item() == pytest.approx(0.07, rel=0.1)


def test_a_blur_keeps_the_light_and_takes_the_edges(photos: Tensor) -> None:
    for kind in ("gaussian blur", "defocus blur", "glass blur", "motion blur"):
        changed = corrupted(photos, kind, 5).float()
        assert changed.mean().item() == pytest.approx(photos.float().mean().item(), rel=0.03)
        assert changed.std((2, 3)).mean() < photos.float().std((2, 3)).mean()


def test_brightness_keeps_the_hue_and_contrast_the_mean(photos: Tensor) -> None:
    dark = photos // 3

    brighter, flatter = corrupted(dark, "brightness", 2).float(), corrupted(photos, "contrast", 4).float()

    assert torch.allclose(brighter.argmax(1).float().mean(), dark.argmax(1).float().mean(), atol=0.05)
    assert brighter.amax(1).mean().item() == pytest.approx(dark.float().amax(1).mean().item() + 25.5, abs=1)
    assert flatter.mean().item() == pytest.approx(photos.float().mean().item(), rel=0.01)


def test_a_grey_photo_is_saturated_towards_red_only_where_something_is_added() -> None:
    grey = torch.full((1, 3, 8, 8), 100, dtype=torch.uint8)

    assert torch.equal(corrupted(grey, "saturate", 3), grey)
    assert corrupted(grey, "saturate", 5)[0, :, 0, 0].tolist() == [100, 80, 80]


def test_pixelation_leaves_blocks_of_one_colour() -> None:
    ramp = torch.arange(32, dtype=torch.uint8).mul(8).expand(1, 1, 32, 32)

    changed = corrupted(ramp, "pixelate", 5)

    assert len(changed[0, 0, 0].unique()) == 20


@pytest.mark.parametrize("shape", [(1, 1), (1, 8), (64, 1)], ids=str)
def test_images_of_a_pixel_can_be_corrupted(shape: tuple[int, int]) -> None:
    images = torch.full((2, 3, *shape), 100, dtype=torch.uint8)

    for kind in kinds_for(images):
        assert corrupted(images, kind, 5, style="photo").shape == images.shape
