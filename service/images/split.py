"""Find the signs that stand side by side on a sheet, such as the digits of a number.

Knows nothing about files or models. Strokes that touch are one sign.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

INK_LEVEL = 0.25
"""Of the darkest stroke; below it is paper, noise or the soft edge of a stroke."""

_ENOUGH_PIXELS = 256  # of the longer side, to tell strokes apart
_MOST_STROKES = 500  # more are the grain of a picture, and no writing

# Measured on MNIST; see docs/images.md.
_LEAST_HEIGHT = 0.5  # of the tallest sign; what is lower is a part of its neighbour
_LEAST_PIXELS = 0.02  # of the largest stroke; what is smaller is dust
_MOST_SHARED = 0.5  # of the narrower one's columns; what shares more lies above or below it

Drawing = npt.NDArray[np.float32]


@dataclass
class _Sign:
    """Strokes that belong together: their numbers, their box, and how many pixels they have."""

    strokes: list[int]
    top: int
    bottom: int
    left: int
    right: int
    pixels: int

    @property
    def height(self) -> int:
        return self.bottom - self.top

    def shared(self, other: _Sign) -> float:
        """Return the share of the narrower one's columns that both have; negative where there is a gap."""
        width = min(self.right - self.left, other.right - other.left)
        return (min(self.right, other.right) - max(self.left, other.left)) / width

    def join(self, other: _Sign) -> None:
        self.strokes += other.strokes
        self.top, self.bottom = min(self.top, other.top), max(self.bottom, other.bottom)
        self.left, self.right = min(self.left, other.left), max(self.right, other.right)
        self.pixels += other.pixels


def separate(ink: Drawing) -> list[Drawing]:
    """Return the ink of each sign, from left to right. ink: float32 [H, W], 0 for paper; at least one sign."""
    times = -(-max(ink.shape) // _ENOUGH_PIXELS)
    small = np.asarray(Image.fromarray(ink).reduce(times)) if times > 1 else ink
    numbers, count = _strokes(small > INK_LEVEL * float(small.max()))
    signs = _signs(numbers, count) if 1 < count <= _MOST_STROKES else []
    if len(signs) < 2:
        return [ink]
    found = []
    for sign in signs:
        around = np.zeros(numbers.shape, bool)
        around[max(0, sign.top - 1) : sign.bottom + 1, max(0, sign.left - 1) : sign.right + 1] = True
        own = np.isin(numbers, sign.strokes) | (around & (numbers == 0))  # with the soft edge of its strokes
        large = own.repeat(times, axis=0).repeat(times, axis=1)[: ink.shape[0], : ink.shape[1]]
        found.append(np.where(large, ink, 0))
    return found


def _signs(numbers: npt.NDArray[np.int32], count: int) -> list[_Sign]:
    """Join the strokes that are one sign, from left to right. numbers: int32 [H, W], as `_strokes` gives them."""
    strokes = [_sign(numbers, number) for number in range(1, count + 1)]
    least = _LEAST_PIXELS * max(stroke.pixels for stroke in strokes)
    strokes = [stroke for stroke in strokes if stroke.pixels >= least]
    lowest = _LEAST_HEIGHT * max(stroke.height for stroke in strokes)
    signs = [stroke for stroke in strokes if stroke.height >= lowest]
    for part in strokes:
        if part.height < lowest:
            max(signs, key=part.shared).join(part)
    joined: list[_Sign] = []
    for sign in sorted(signs, key=lambda sign: sign.left):
        if joined and sign.shared(joined[-1]) > _MOST_SHARED:
            joined[-1].join(sign)
        else:
            joined.append(sign)
    return joined


def _sign(numbers: npt.NDArray[np.int32], number: int) -> _Sign:
    rows, columns = np.nonzero(numbers == number)
    top, bottom, left, right = int(rows.min()), int(rows.max()) + 1, int(columns.min()), int(columns.max()) + 1
    return _Sign([number], top, bottom, left, right, len(rows))


def _strokes(drawn: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.int32], int]:
    """Number the strokes, from 1: pixels that touch, also at their corners. Returns [H, W] and how many there are."""
    edges = np.diff(np.pad(drawn, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(edges == 1)
    ends = np.nonzero(edges == -1)[1]
    parents = list(range(len(rows)))

    def root(run: int) -> int:
        while parents[run] != run:
            parents[run] = run = parents[parents[run]]
        return run

    runs = list(zip(rows.tolist(), starts.tolist(), ends.tolist(), strict=True))
    above = 0
    for run, (row, start, end) in enumerate(runs):
        while runs[above][0] < row - 1 or (runs[above][0] == row - 1 and runs[above][2] < start):
            above += 1
        touching = above
        while runs[touching][0] == row - 1 and runs[touching][1] <= end:
            parents[root(touching)] = root(run)
            touching += 1
    roots, numbers = np.unique([root(run) for run in range(len(runs))], return_inverse=True)
    numbered = np.zeros(drawn.shape, np.int32)
    for number, (row, start, end) in zip(numbers.tolist(), runs, strict=True):
        numbered[row, start:end] = number + 1
    return numbered, len(roots)
