"""Degraded training images: as strong as they say, by chance of their own, and recognisable."""

from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor

from tests.training.data.test_augmentation import apply
from training.data.augmentation import Augmentation, OneOf, scaled
from training.data.dataset import Dataset
from training.data.degradation import Blur, Haze, Light, Noise, Scatter

EVERY: list[Augmentation] = [Noise(0.3, share=0.2), Light(0.1, lightest=0.5), Haze(2.0), Scatter(2.0), Blur(1.5)]


@pytest.mark.parametrize("augmentation", EVERY, ids=str)
def test_images_stay_uint8_of_their_shape_and_depend_on_the_generator_alone(
    augmentation: Augmentation, digits_test: Dataset
) -> None:
    few, photos = digits_test.inputs[:40], torch.arange(3 * 3 * 64, dtype=torch.int64).view(3, 3, 8, 8).to(torch.uint8)
    original = few.clone()

    varied, again, other = (apply(augmentation, few, seed=seed) for seed in (0, 0, 1))

    assert (varied.dtype, varied.shape) == (torch.uint8, few.shape)
    assert torch.equal(varied, again)
    assert not torch.equal(varied, other)
    assert torch.equal(few, original)
    assert apply(augmentation, photos).shape == photos.shape


def brightest(images: Tensor) -> Tensor:
    return images.flatten(1).amax(1)


def test_noise_is_of_three_kinds_each_up_to_its_strength() -> None:
    grey = torch.full((300, 1, 20, 20), 128, dtype=torch.uint8)

    noisy = apply(Noise(0.1, share=0.5), grey).float() / 255
    specks = ((noisy == 0) | (noisy == 1)).float().mean((1, 2, 3))
    deviations = (noisy - noisy.mean((2, 3), keepdim=True)).std((1, 2, 3))

    with_specks = specks > 0.01
    assert 60 < with_specks.sum() < 140
    assert specks.max() < 0.6
    assert deviations[~with_specks].max() < 0.11
    assert deviations[~with_specks].min() < 0.02


def test_light_and_haze_leave_less_contrast_on_a_lighter_ground(digits_test: Dataset) -> None:
    for augmentation in (Light(0.1, lightest=0.5), Haze(2.0)):
        varied = apply(augmentation, digits_test.inputs).float()
        assert varied.amin((1, 2, 3)).float().std() > 0 or isinstance(augmentation, Haze)
        assert varied.mean() > 1.3 * digits_test.inputs.float().mean()
        assert (varied.amax((1, 2, 3)) - varied.mean((1, 2, 3))).mean() < 200


def test_a_blur_of_no_width_and_a_scatter_of_no_pixel_change_nothing(digits_test: Dataset) -> None:
    assert torch.equal(apply(Blur(1e-3), digits_test.inputs[:5]), digits_test.inputs[:5])
    assert torch.equal(apply(Scatter(0.4), digits_test.inputs[:5]), digits_test.inputs[:5])


def test_scattered_pixels_come_from_near_by() -> None:
    image = torch.zeros(200, 1, 9, 9, dtype=torch.uint8)
    image[:, :, 4, 4] = 255

    rows, columns = apply(Scatter(2.0), image)[:, 0].nonzero()[:, 1:].unbind(1)

    assert (rows - 4).abs().max() == (columns - 4).abs().max() == 2


def test_one_of_several_is_done_to_a_share_of_the_images_and_to_each_by_its_own_chance() -> None:
    class Paint:
        def __init__(self, level: int) -> None:
            self.level = level

        def __call__(self, images: Tensor, *, examples: Tensor, epoch: int, generator: Generator) -> Tensor:
            assert (images[:, 0, 0, 0] == examples % 251).all()  # each with the place of its own example
            return torch.full_like(images, self.level)

    images = (torch.arange(900) % 251).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous()

    painted = apply(OneOf((Paint(252), Paint(254)), share=0.5), images)[:, 0, 0, 0]

    counts = [(painted == level).sum().item() for level in (252, 254)]
    assert all(180 < count < 270 for count in counts)
    untouched = painted < 251
    assert torch.equal(painted[untouched], images[untouched][:, 0, 0, 0])


def test_lengths_grow_with_the_images() -> None:
    assert scaled(OneOf((Blur(1.0), Scatter(2.0), Haze(1.0)), share=0.5), 2.0) == OneOf(
        (Blur(2.0), Scatter(4.0), Haze(1.0)), share=0.5
    )
