from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor

from training.data.augmentation import AlternatingFlip, Augmentation, Chain, Cutout, Deform, Jpeg, Translate, shrink
from training.data.batches import batches
from training.data.dataset import Dataset
from training.hyper_parameters import HyperParameters

STILL = Deform(degrees=0, stretch=0, slant=0, move=0, bend=0)
DEFORM = Deform(degrees=7, stretch=0.07, slant=0.12, move=1.2, bend=0.7)
EVERY = [AlternatingFlip(), Translate(2), Cutout(8), DEFORM, Jpeg(0.5), Chain((Translate(1), Jpeg(1.0)))]


def apply(augmentation: Augmentation, images: Tensor, *, epoch: int = 1, seed: int = 0) -> Tensor:
    generator = Generator().manual_seed(seed)
    return augmentation(images, examples=torch.arange(len(images)), epoch=epoch, generator=generator)


@pytest.fixture
def photos() -> Tensor:
    """Smooth colour images, each different."""
    coarse = torch.rand(64, 3, 4, 4, generator=Generator().manual_seed(0)) * 255
    return torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bilinear").to(torch.uint8)


@pytest.mark.parametrize("augmentation", EVERY, ids=str)
def test_images_stay_uint8_of_their_shape_change_and_depend_on_the_generator_alone(
    augmentation: Augmentation, photos: Tensor
) -> None:
    original = photos.clone()

    varied, again = apply(augmentation, photos), apply(augmentation, photos)

    assert (varied.dtype, varied.shape) == (torch.uint8, photos.shape)
    assert torch.equal(varied, again)
    assert not torch.equal(varied, photos)
    assert torch.equal(photos, original)


@pytest.mark.parametrize("augmentation", [Translate(2), Cutout(8), DEFORM, Jpeg(1.0)], ids=str)
def test_another_seed_varies_them_otherwise(augmentation: Augmentation, photos: Tensor) -> None:
    assert not torch.equal(apply(augmentation, photos, seed=1), apply(augmentation, photos, seed=2))


def test_two_epochs_in_a_row_show_both_views_of_every_image(photos: Tensor) -> None:
    odd, even = (apply(AlternatingFlip(), photos, epoch=epoch) for epoch in (1, 2))
    flipped = (odd == photos.flip(3)).flatten(1).all(1)

    assert torch.equal(odd, even.flip(3))
    assert 20 < flipped.sum() < 44


def test_a_flip_belongs_to_the_example_and_not_to_its_place_in_the_batch(photos: Tensor) -> None:
    order = torch.randperm(64, generator=Generator().manual_seed(1))

    shuffled = AlternatingFlip()(photos[order], examples=order, epoch=1, generator=Generator())

    assert torch.equal(shuffled, apply(AlternatingFlip(), photos)[order])


def test_translation_reaches_every_offset_and_fills_with_the_reflection() -> None:
    column = torch.arange(8, dtype=torch.uint8).view(1, 1, 1, 8).expand(500, 1, 8, 8)
    images = column * 8 + column.transpose(2, 3)

    moved = apply(Translate(2), images)

    rows = {tuple(row) for row in (moved[:, 0, 0] // 8).tolist()}
    assert (2, 1, 0, 1, 2, 3, 4, 5) in rows
    assert (2, 3, 4, 5, 6, 7, 6, 5) in rows
    assert len(rows) == 5
    assert len({tuple(image) for image in moved.flatten(1).tolist()}) == 25


def test_cutout_hides_one_square_in_all_channels_whose_centre_is_anywhere() -> None:
    hidden = apply(Cutout(4), torch.full((3000, 2, 8, 8), 255, dtype=torch.uint8)) == 127
    rows, columns = (hidden[:, 0].any(axis).sum(1) for axis in (2, 1))

    assert torch.equal(hidden[:, 0], hidden[:, 1])
    assert torch.equal(hidden[:, 0].sum((1, 2)), rows * columns)
    assert set(rows.tolist()) == set(columns.tolist()) == {2, 3, 4}  # over an edge up to half of it is lost
    assert len({tuple(image) for image in hidden[:, 0].flatten(1).tolist()}) == 64


def test_a_deformation_of_size_zero_changes_nothing(digits_test: Dataset) -> None:
    assert torch.equal(apply(STILL, digits_test.inputs), digits_test.inputs)


@pytest.mark.parametrize("part", ["degrees", "stretch", "slant", "move", "bend"])
def test_each_part_of_a_deformation_deforms(part: str, digits_test: Dataset) -> None:
    sizes = {
        "degrees": 0.0,
        "stretch": 0.0,
        "slant": 0.0,
        "move": 0.0,
        "bend": 0.0,
        part: 0.5 if part != "degrees" else 9,
    }

    deformed = apply(Deform(**sizes), digits_test.inputs[:32])

    changed = (deformed != digits_test.inputs[:32]).flatten(1).any(1)
    assert changed.all()


def test_a_deformed_digit_keeps_its_ink_and_its_black_ground(digits_test: Dataset) -> None:
    deformed = apply(DEFORM, digits_test.inputs)

    assert deformed.float().mean() == pytest.approx(digits_test.inputs.float().mean().item(), rel=0.05)
    assert deformed[:, :, 0, 0].max() == 0


def test_as_many_images_are_compressed_as_the_share_says_and_the_others_are_untouched(photos: Tensor) -> None:
    same = (apply(Jpeg(0.5), photos) == photos).flatten(1).all(1)

    assert 20 < same.sum() < 44
    assert torch.equal(apply(Jpeg(0.0), photos), photos)
    assert not (apply(Jpeg(1.0), photos) == photos).flatten(1).all(1).any()


def test_a_low_quality_costs_more_than_a_high_one(photos: Tensor) -> None:
    def error(quality: int) -> float:
        return (apply(Jpeg(1.0, quality, quality), photos).float() - photos).square().mean().item()

    assert error(20) > error(60) > error(95)


def test_grey_images_are_compressed_too(digits_test: Dataset) -> None:
    assert not torch.equal(apply(Jpeg(1.0, 50, 50), digits_test.inputs[:8]), digits_test.inputs[:8])


def test_every_batch_is_augmented_by_chance_of_its_own_and_no_augment_leaves_it_alone(digits: Dataset) -> None:
    hyper = HyperParameters(epochs=2, batch_size=1, optimiser="sgd", lr=0.01, shuffle=False)
    twins = Dataset("twins", "train", digits.inputs[:1].expand(2, -1, -1, -1), digits.labels[:2], digits.classes)

    first, second = (torch.cat([images for images, _ in batches(twins, hyper, epoch, DEFORM)]) for epoch in (1, 2))
    plain = torch.cat([images for images, _ in batches(twins, hyper.override({"augment": False}), 1, DEFORM)])

    assert len({image.numpy().tobytes() for image in (*first, *second)}) == 4
    assert torch.equal(plain, twins.inputs)


def test_shrinking_takes_the_mean_of_what_it_merges() -> None:
    left_white = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    left_white[..., :4] = 200

    small = shrink(left_white)

    assert small.shape == (1, 1, 6, 6)
    assert small.dtype == torch.uint8
    assert small[0, 0, 0].tolist()[:2] == [200, 200]
    assert small[0, 0, 0].tolist()[4:] == [0, 0]
    assert small.float().mean().item() == pytest.approx(100, abs=1)
