"""TrivialAugment: every operation is what Pillow makes of one image, and one of them is done to each of a batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from tests.training.data.test_augmentation import apply
from training.data.trivial_augment import OPERATIONS, TrivialAugment


@pytest.fixture(scope="module")
def photos() -> Tensor:
    """Smooth colour images of many levels, none of them black or white."""
    coarse = torch.rand(16, 3, 6, 6, generator=torch.Generator().manual_seed(0)) * 200 + 20
    return torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bicubic").round().to(torch.uint8)


def operate(name: str, photos: Tensor, strength: float) -> Tensor:
    strengths = torch.full((len(photos), 1, 1, 1), strength)
    return OPERATIONS[name](photos.float(), strengths).clamp(0, 255).round()


def pillows(photos: Tensor, function: object) -> Tensor:
    pictures = [Image.fromarray(photo.movedim(0, -1).numpy()) for photo in photos]
    return torch.stack([torch.from_numpy(np.asarray(function(p)).copy()).movedim(-1, 0) for p in pictures]).float()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("name", "strength", "function"),
    [
        ("brightness", 0.5, lambda p: ImageEnhance.Brightness(p).enhance(1 + 0.99 * 0.5)),
        ("brightness", -0.5, lambda p: ImageEnhance.Brightness(p).enhance(1 - 0.99 * 0.5)),
        ("colour", -0.7, lambda p: ImageEnhance.Color(p).enhance(1 - 0.99 * 0.7)),
        ("contrast", 0.6, lambda p: ImageEnhance.Contrast(p).enhance(1 + 0.99 * 0.6)),
        ("posterise", 1.0, lambda p: ImageOps.posterize(p, 2)),
        ("posterise", 0.5, lambda p: ImageOps.posterize(p, 5)),
        ("solarise", 0.5, lambda p: ImageOps.solarize(p, 128)),
        ("auto contrast", 0.3, ImageOps.autocontrast),
        ("translate x", 0.25, lambda p: p.transform(p.size, Image.Transform.AFFINE, (1, 0, 8, 0, 1, 0))),
        ("translate y", -0.25, lambda p: p.transform(p.size, Image.Transform.AFFINE, (1, 0, 0, 0, 1, -8))),
    ],
)
def test_an_operation_does_what_pillows_does(name: str, strength: float, function: object, photos: Tensor) -> None:
    expected = pillows(photos, function)

    assert (operate(name, photos, strength) - expected).abs().mean() < 1.0


def test_sharpness_of_minus_one_smooths_and_of_one_sharpens(photos: Tensor) -> None:
    expected = pillows(photos, lambda p: ImageEnhance.Sharpness(p).enhance(1 - 0.99))[:, :, 1:-1, 1:-1]

    assert (operate("sharpness", photos, -1.0)[:, :, 1:-1, 1:-1] - expected).abs().mean() < 1.0
    assert operate("sharpness", photos, 1.0).std() > photos.float().std()


def test_equalising_spreads_the_levels_evenly_as_pillows_does(photos: Tensor) -> None:
    expected = pillows(photos, ImageOps.equalize)

    equalised = operate("equalise", photos, 0.0)

    assert (equalised - expected).abs().mean() < 10  # Pillow counts in steps of four pixels here, rounded down
    assert equalised.amin((2, 3)).max() == 0
    assert equalised.amax((2, 3)).min() == 255


def test_a_rotation_by_a_right_angle_and_a_shear_keep_the_middle(photos: Tensor) -> None:
    turned = operate("rotate", photos, 90 / 135)

    assert any(torch.equal(turned, photos.float().rot90(k, (2, 3))) for k in (1, 3))
    for name in ("shear x", "shear y"):
        assert (operate(name, photos, 0.0) == photos).all()
        sheared = operate(name, photos, 0.5)
        assert torch.equal(sheared[:, :, 16, 16], photos[:, :, 16, 16].float())
        assert not torch.equal(sheared, photos.float())


def test_every_operation_is_chosen_about_as_often_and_leaves_uint8() -> None:
    ramp = torch.arange(32, dtype=torch.uint8).mul(5).expand(1400, 3, 32, 32).contiguous()

    varied = apply(TrivialAugment(), ramp)

    assert (varied.dtype, varied.shape) == (torch.uint8, ramp.shape)
    untouched = (varied == ramp).flatten(1).all(1).float().mean().item()
    assert 1 / 14 < untouched < 6 / 14  # identity, and weak, or of no effect on grey that is even from top to bottom
    assert torch.equal(varied, apply(TrivialAugment(), ramp))
    assert not torch.equal(varied, apply(TrivialAugment(), ramp, seed=1))
