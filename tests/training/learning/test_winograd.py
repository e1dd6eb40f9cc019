"""Convolutions by Winograd's filtering, against torch's own."""

from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import conv2d

from training.learning import winograd
from training.learning.winograd import convolve, quickened
from training.networks.whitened_net import WhitenedNet
from training.recipes import find

FLOAT32 = find("cifar10").hyper.override({"precision": "float32"})


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=Generator().manual_seed(seed))


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two images of one tile at a time, so that a batch of five takes several parts and the last one is not full."""
    monkeypatch.setattr(winograd, "_PART_BYTES", 3_000)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 5), (3, 3), (4, 4), (7, 7), (8, 15), (15, 6)])
@pytest.mark.usefixtures("small_parts")
def test_outputs_and_both_gradients_are_those_of_a_direct_convolution(height: int, width: int) -> None:
    images, filters = random(5, 7, height, width), random(9, 7, 3, 3, seed=1)
    given = random(5, 9, height, width, seed=2)
    direct = [images.double().requires_grad_(), filters.double().requires_grad_()]
    ours = [images.clone().requires_grad_(), filters.clone().requires_grad_()]

    expected = conv2d(*direct, padding=1)
    result = convolve(*ours)
    expected.backward(given.double())
    result.backward(given)

    pairs = [(result, expected), (ours[0].grad, direct[0].grad), (ours[1].grad, direct[1].grad)]
    for computed, exact in pairs:
        assert computed is not None
        assert exact is not None
        assert computed.shape == exact.shape
        assert (computed - exact).abs().max() < 3e-5 * exact.abs().max()


def test_images_channels_first_or_last_give_the_same_bits() -> None:
    images, filters = random(3, 8, 7, 7), random(8, 8, 3, 3, seed=1)

    last = convolve(images.contiguous(memory_format=torch.channels_last), filters)

    assert torch.equal(last, convolve(images, filters))


def test_an_empty_part_of_a_batch_has_no_outputs_and_a_gradient_of_zero() -> None:
    filters = random(8, 8, 3, 3).requires_grad_()

    result = convolve(torch.zeros(0, 8, 7, 7), filters)
    result.sum().backward()

    assert result.shape == (0, 8, 7, 7)
    assert filters.grad is not None
    assert not filters.grad.any()


def test_inside_the_block_wide_convolutions_are_quick_and_after_it_they_are_what_they_were() -> None:
    network = WhitenedNet()
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    weights = [convolution.weight for convolution in convolutions]

    def interrupted() -> None:
        with quickened(network, FLOAT32):
            inside.extend(type(convolution) is nn.Conv2d for convolution in convolutions)
            raise KeyboardInterrupt

    inside: list[bool] = []
    with pytest.raises(KeyboardInterrupt):
        interrupted()

    assert inside == [True, True, True, False, False, False, False]  # whitening, 24 to 64 and 64 to 64 stay direct
    assert all(type(convolution) is nn.Conv2d for convolution in convolutions)
    assert all(one is other.weight for one, other in zip(weights, convolutions, strict=True))


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv2d(128, 128, 5, padding=2, bias=False),
        nn.Conv2d(128, 128, 3, padding=1),
        nn.Conv2d(128, 128, 3, bias=False),
        nn.Conv2d(128, 128, 3, padding=1, stride=2, bias=False),
        nn.Conv2d(128, 128, 3, padding=1, groups=2, bias=False),
        nn.Conv2d(128, 128, 3, padding=1, bias=False, padding_mode="reflect"),
        nn.Conv2d(128, 128, 3, padding=1, bias=False, dtype=torch.float64),
        nn.Conv2d(128, 127, 3, padding=1, bias=False),
    ],
    ids=str,
)
def test_what_it_does_not_cover_or_gain_by_stays_direct(convolution: nn.Conv2d) -> None:
    with quickened(convolution, FLOAT32):
        assert type(convolution) is nn.Conv2d


def test_bfloat16_stays_direct() -> None:
    with quickened(network := WhitenedNet(widths=(128, 128, 128)), FLOAT32.override({"precision": "bfloat16"})):
        assert all(type(module) is nn.Conv2d for module in network.modules() if isinstance(module, nn.Conv2d))


def test_images_that_tiles_cover_badly_stay_direct(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[tuple[int, ...]] = []

    def noted(images: Tensor, filters: Tensor) -> Tensor:
        taken.append(tuple(images.shape[2:]))
        return convolve(images, filters)

    monkeypatch.setattr(winograd, "convolve", noted)
    convolution = nn.Conv2d(128, 128, 3, padding=1, bias=False)

    with quickened(convolution, FLOAT32):
        for side in (3, 5, 7, 15):
            convolution(random(1, 128, side, side))

    assert taken == [(7, 7), (15, 15)]
