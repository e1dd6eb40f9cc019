"""Convolutions of 3 x 3 with a third of the multiplications, for training on a CPU. Knows nothing about data or steps.

Winograd's minimal filtering F(4 x 4, 3 x 3), as in Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks",
arXiv 1509.09308: a tile of 4 x 4 outputs takes 36 products of each pair of channels in place of 144, as 36 large matrix
products. torch's own convolutions on a CPU are direct. Gradients are computed the same way. In float32 results differ
from the direct ones by about 1e-5 of the largest.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from training.hyper_parameters import HyperParameters

_LEAST_PAIRS = 128 * 128
"""Of input and output channels, for the products to win more than the transforms cost (`benchmarks.convolutions`)."""

_MOST_LEFT = 0.4
"""Of the multiplications, for the same reason: 0.33 of them are left at 7 x 7, 0.44 at 3 x 3."""

_PART_BYTES = 4_000_000
"""Of the tiles that are underway at once: they stay in the cache between the steps."""

_TILE, _PATCH = 4, 6  # outputs of a tile, and the inputs they depend on, in each direction


@contextlib.contextmanager
def quickened(network: nn.Module, hyper: HyperParameters) -> Iterator[None]:
    """Inside the block, the convolutions of `network` that gain by it compute this way; the weights stay their own."""
    convolutions = [module for module in network.modules() if hyper.precision == "float32" and _gains(module)]
    try:
        for convolution in convolutions:
            convolution.__class__ = _Quick
        yield
    finally:
        for convolution in convolutions:
            convolution.__class__ = nn.Conv2d


def convolve(images: Tensor, filters: Tensor) -> Tensor:  # float32 [N, C, H, W], [O, C, 3, 3] -> [N, O, H, W]
    """The convolution with a padding of 1, differentiable; quickest where the images are channels last."""
    result: Tensor = _Convolution.apply(images, filters)
    return result


def _gains(module: nn.Module) -> bool:
    return (
        type(module) is nn.Conv2d
        and module.weight.device.type == "cpu"
        and module.weight.dtype == torch.float32
        and module.kernel_size == (3, 3)
        and module.stride == module.dilation == (1, 1)
        and module.padding == (1, 1)
        and module.padding_mode == "zeros"
        and module.groups == 1
        and module.bias is None
        and module.in_channels * module.out_channels >= _LEAST_PAIRS
    )


class _Quick(nn.Conv2d):
    def forward(self, inputs: Tensor) -> Tensor:
        if _share_left(*inputs.shape[2:]) > _MOST_LEFT:
            return super().forward(inputs)
        return convolve(inputs, self.weight)


def _share_left(height: int, width: int) -> float:
    """Of the multiplications: a quarter where tiles of 4 x 4 cover the outputs, more where they reach beyond them."""
    return _count(height) * _count(width) * _PATCH**2 / (height * width * 9)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, filters: Tensor) -> Tensor:
        ctx.save_for_backward(images, filters)
        pixels = images.permute(0, 2, 3, 1)
        outputs, inputs = filters.shape[:2]
        turned = _turned_filters(filters.permute(2, 3, 1, 0))
        result = images.new_empty(*pixels.shape[:3], outputs)
        for part in _parts(pixels, max(inputs, outputs)):
            _put_tiles(torch.bmm(_turned_patches(pixels[part]), turned), result[part])
        return result.permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor]:
        images, filters = ctx.saved_tensors
        pixels, of_result = images.permute(0, 2, 3, 1), gradient.permute(0, 2, 3, 1)
        outputs, inputs = filters.shape[:2]
        turned = _turned_filters(filters.permute(2, 3, 0, 1))
        of_pixels = pixels.new_empty(pixels.shape) if ctx.needs_input_grad[0] else None
        of_turned = filters.new_zeros(_PATCH**2, inputs, outputs)
        for part in _parts(pixels, max(inputs, outputs)):
            of_products = _turned_tiles(of_result[part])
            of_turned.baddbmm_(_turned_patches(pixels[part]).transpose(1, 2), of_products)
            if of_pixels is not None:
                _put_patches(torch.bmm(of_products, turned), of_pixels[part])
        of_filters = (_transforms().of_filters.T @ of_turned.view(_PATCH**2, -1)).view(3, 3, inputs, outputs)
        return None if of_pixels is None else of_pixels.permute(0, 3, 1, 2), of_filters.permute(3, 2, 0, 1)


class _Transforms:
    """Lavin and Gray's B, G and A for a whole tile at once: the Kronecker product of each with itself."""

    def __init__(self) -> None:
        of_input = [
            [4, 0, -5, 0, 1, 0],
            [0, -4, -4, 1, 1, 0],
            [0, 4, -4, -1, 1, 0],
            [0, -2, -1, 2, 1, 0],
            [0, 2, -1, -2, 1, 0],
            [0, 4, 0, -5, 0, 1],
        ]
        of_filter = [[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]  # times 24
        to_output = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]
        self.of_inputs = _twice(of_input)  # [36, 36]
        self.of_filters = _twice(of_filter) / 24**2  # [36, 9]
        self.to_outputs = _twice(to_output)  # [16, 36]


def _twice(rows: list[list[int]]) -> Tensor:
    matrix = torch.tensor(rows, dtype=torch.float32)
    return torch.kron(matrix, matrix)


@cache
def _transforms() -> _Transforms:
    return _Transforms()


def _turned_filters(filters: Tensor) -> Tensor:  # [3, 3, A, B] -> [36, A, B]
    return (_transforms().of_filters @ filters.reshape(9, -1)).view(_PATCH**2, *filters.shape[2:])


def _parts(pixels: Tensor, channels: int) -> Iterator[slice]:
    """The images, as many at a time as fit the cache with their tiles."""
    n, height, width, _ = pixels.shape
    step = max(1, _PART_BYTES // (_PATCH**2 * _count(height) * _count(width) * channels * pixels.element_size()))
    return (slice(start, start + step) for start in range(0, n, step))


def _count(side: int) -> int:
    """Tiles that cover a side of that many outputs."""
    return -(-side // _TILE)


def _turned_patches(pixels: Tensor) -> Tensor:  # [n, H, W, C] -> [36, n * tiles, C]
    """The patch of inputs of every tile, neighbours two pixels overlapping, transformed."""
    n, height, width, channels = pixels.shape
    down, right = _count(height), _count(width)
    padded = pixels.new_zeros(n, _TILE * down + 2, _TILE * right + 2, channels)
    padded[:, 1 : 1 + height, 1 : 1 + width] = pixels
    image, row, pixel, _ = padded.stride()
    size = (_PATCH, _PATCH, n, down, right, channels)
    patches = padded.as_strided(size, (row, pixel, image, _TILE * row, _TILE * pixel, 1))
    return (_transforms().of_inputs @ patches.reshape(_PATCH**2, -1)).view(_PATCH**2, -1, channels)


def _put_patches(gradient: Tensor, pixels: Tensor) -> None:  # [36, n * tiles, C] -> [n, H, W, C]
    """The transpose of `_turned_patches`, into `pixels`: where patches overlap, the sum."""
    n, height, width, channels = pixels.shape
    down, right = _count(height), _count(width)
    flat = _transforms().of_inputs.T @ gradient.view(_PATCH**2, -1)
    patches = flat.view(_PATCH, _PATCH, n, down, right, channels).permute(2, 3, 0, 4, 1, 5)
    padded = pixels.new_zeros(n, down + 1, _TILE, right + 1, _TILE, channels)
    inner, rest = slice(_TILE), slice(_TILE, None)
    padded[:, :down, :, :right] = patches[:, :, inner, :, inner]
    padded[:, 1:, :2, :right] += patches[:, :, rest, :, inner]
    padded[:, :down, :, 1:, :2] += patches[:, :, inner, :, rest]
    padded[:, 1:, :2, 1:, :2] += patches[:, :, rest, :, rest]
    whole = padded.view(n, _TILE * (down + 1), _TILE * (right + 1), channels)
    pixels.copy_(whole[:, 1 : 1 + height, 1 : 1 + width])


def _put_tiles(products: Tensor, pixels: Tensor) -> None:  # [36, n * tiles, O] -> [n, H, W, O]
    """The outputs that the products of every tile give, into `pixels`."""
    n, height, width, channels = pixels.shape
    down, right = _count(height), _count(width)
    tiles = _transforms().to_outputs @ products.view(_PATCH**2, -1)
    tiles = tiles.view(_TILE, _TILE, n, down, right, channels).permute(2, 3, 0, 4, 1, 5)
    whole = tiles.reshape(n, _TILE * down, _TILE * right, channels)
    pixels.copy_(whole[:, :height, :width])


def _turned_tiles(gradient: Tensor) -> Tensor:  # [n, H, W, O] -> [36, n * tiles, O]
    """The transpose of `_put_tiles`."""
    n, height, width, channels = gradient.shape
    down, right = _count(height), _count(width)
    whole = gradient.new_zeros(n, _TILE * down, _TILE * right, channels)
    whole[:, :height, :width] = gradient
    tiles = whole.reshape(n, down, _TILE, right, _TILE, channels).permute(2, 4, 0, 1, 3, 5)
    return (_transforms().to_outputs.T @ tiles.reshape(_TILE**2, -1)).view(_PATCH**2, -1, channels)
