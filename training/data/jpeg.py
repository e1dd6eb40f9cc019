"""JPEG compression and decompression of image batches as tensor arithmetic, on whichever device they are.

What libjpeg does to pixels, without its bytes: colour conversion, 4:2:0 chroma, the DCT of 8 x 8 blocks, quantisation
(ITU T.81, annexes A and K), and back. Knows nothing about chance or training.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, pad

BLOCK = 8
TOGETHER_ON_CPU = 128
"""Images computed at once on a CPU. 1,000 of 32 x 32: 76 ms (all at once 102, libjpeg 97; a core of an AMD EPYC)."""

_LUMA = (
    *(16, 11, 10, 16, 24, 40, 51, 61),
    *(12, 12, 14, 19, 26, 58, 60, 55),
    *(14, 13, 16, 24, 40, 57, 69, 56),
    *(14, 17, 22, 29, 51, 87, 80, 62),
    *(18, 22, 37, 56, 68, 109, 103, 77),
    *(24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101),
    *(72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMA = (
    *(17, 18, 24, 47, 99, 99, 99, 99),
    *(18, 21, 26, 66, 99, 99, 99, 99),
    *(24, 26, 56, 99, 99, 99, 99, 99),
    *(47, 66, 99, 99, 99, 99, 99, 99),
    *(99,) * 32,
)
"""Quantisation tables of annex K, at quality 50."""


def compress(images: Tensor, qualities: Tensor) -> Tensor:  # uint8 [N, C, H, W] -> uint8 [N, C, H, W]
    """Return `images` as they look after JPEG compression, each at its own quality.

    Args:
        images: uint8 [N, 1, H, W] or [N, 3, H, W], grey or RGB.
        qualities: int64 [N], 1 to 100 on libjpeg's scale, on the same device.
    """
    together = TOGETHER_ON_CPU if images.device.type == "cpu" else max(1, len(images))
    parts = zip(torch.split(images, together), torch.split(qualities, together), strict=True)
    return torch.cat([_compress(*part) for part in parts])


def _compress(images: Tensor, qualities: Tensor) -> Tensor:
    height, width = images.shape[2:]
    if images.shape[1] == 1:
        planes = _quantise(_extend(images.float(), BLOCK, BLOCK) - 128, _table(_LUMA, qualities))
        return _levels(planes[:, :, :height, :width])
    red, green, blue = torch.split(images.float(), 1, dim=1)
    luma = (0.299 * red + 0.587 * green + 0.114 * blue).round_()
    chroma = torch.cat(
        [-0.168736 * red - 0.331264 * green + 0.5 * blue, 0.5 * red - 0.418688 * green - 0.081312 * blue], dim=1
    ).round_()
    luma = _quantise(_extend(luma, BLOCK, BLOCK) - 128, _table(_LUMA, qualities))[:, :, :height, :width]
    chroma = avg_pool2d(_extend(chroma, 2, 2 * BLOCK), 2).round_()
    chroma = _quantise(_extend(chroma, BLOCK, BLOCK), _table(_CHROMA, qualities))
    chroma = chroma[:, :, : -(-height // 2), : -(-width // 2)]
    chroma = interpolate(chroma, scale_factor=2, mode="bilinear", align_corners=False)[:, :, :height, :width]
    blue_chroma, red_chroma = torch.split(chroma, 1, dim=1)
    luma = luma.clamp_(-128, 127)
    green = luma - 0.344136 * blue_chroma - 0.714136 * red_chroma
    return _levels(torch.cat([luma + 1.402 * red_chroma, green, luma + 1.772 * blue_chroma], dim=1))


def _levels(planes: Tensor) -> Tensor:  # float32 around 0 -> uint8
    return (planes + 128).round_().clamp_(0, 255).to(torch.uint8)


def _extend(planes: Tensor, rows: int, columns: int) -> Tensor:
    """Repeat the last row and column until the sides are multiples of `rows` and `columns`, as libjpeg does."""
    down, right = -planes.shape[2] % rows, -planes.shape[3] % columns
    return pad(planes, (0, right, 0, down), mode="replicate") if down or right else planes


def _quantise(planes: Tensor, table: Tensor) -> Tensor:  # float32 [N, C, H, W], [N, 8, 8] -> float32 [N, C, H, W]
    """Round the DCT coefficients of every block to multiples of the table's entries, and transform back."""
    n, channels, height, width = planes.shape
    down, across = _dct(height, planes.device), _dct(width, planes.device)
    blocks = (n, channels, height // BLOCK, BLOCK, width // BLOCK, BLOCK)
    steps = table.view(n, 1, 1, BLOCK, 1, BLOCK)
    coefficients = (down @ (planes @ across.T)).view(blocks)
    rounded = (coefficients / steps).round_().mul_(steps).view(planes.shape)
    return (down.T @ (rounded @ across)).round_()


def _dct(side: int, device: torch.device) -> Tensor:  # float32 [side, side]
    """Return the orthonormal DCT of every 8 numbers of a side, as one block-diagonal matrix.

    On images of 32 x 32 its zeros cost less than products of many 8 x 8 matrices do.
    """
    k = torch.arange(BLOCK, dtype=torch.float32)
    matrix = torch.cos((2 * k + 1) * k.view(-1, 1) * (math.pi / (2 * BLOCK))) * (2 / BLOCK) ** 0.5
    scale = torch.where(k == 0, 0.5**0.5, 1.0).view(-1, 1)
    return torch.kron(torch.eye(side // BLOCK), matrix * scale).to(device)


def _table(at_quality_50: tuple[int, ...], qualities: Tensor) -> Tensor:  # int64 [N] -> float32 [N, 8, 8]
    """Return the quantisation table of each quality, in libjpeg's integer arithmetic."""
    table = torch.tensor(at_quality_50).to(qualities.device)
    percent = torch.where(qualities < 50, 5000 // qualities, 200 - 2 * qualities).view(-1, 1)
    return ((table * percent + 50) // 100).clamp(1, 255).float().view(-1, BLOCK, BLOCK)
