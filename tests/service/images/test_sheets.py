"""Of a photo of a sheet, only the ink is ink."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from service.images import sheets

Pixels = npt.NDArray[np.uint8]

STROKE = (slice(50, 90), slice(60, 72))


def sheet() -> Pixels:
    """White paper with one upright stroke."""
    pixels = np.full((140, 130), 240, np.uint8)
    pixels[STROKE] = 30
    return pixels


def extent(ink: npt.NDArray[np.float32]) -> tuple[int, int]:
    """How high and wide all ink is together."""
    rows, columns = np.nonzero(ink > 0.25 * ink.max())
    return int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1


@pytest.mark.parametrize("side", range(4))
@pytest.mark.parametrize("tilt", [0.0, 0.08])
@pytest.mark.parametrize("shade", [0, 60, 180])
def test_a_desk_at_a_side_is_left_out(side: int, tilt: float, shade: int) -> None:
    pixels = np.pad(sheet(), ((20, 0), (0, 0)), constant_values=240)
    rows, columns = np.indices(pixels.shape)
    pixels[rows < 20 - tilt * columns] = shade

    ink = sheets.ink_of(np.rot90(pixels, side))

    assert extent(ink) == ((40, 12) if side % 2 == 0 else (12, 40))


def test_desks_at_two_sides_are_left_out() -> None:
    pixels = np.pad(sheet(), ((25, 0), (0, 30)), constant_values=50)

    assert extent(sheets.ink_of(pixels)) == (40, 12)


@pytest.mark.parametrize("slope", [0.0, 0.04, -0.06])
@pytest.mark.parametrize("squared", [False, True])
def test_lines_are_left_out(slope: float, squared: bool) -> None:
    pixels = sheet()
    rows, columns = np.indices(pixels.shape)
    lines = np.rint(rows + slope * columns) % 23 == 0
    if squared:
        lines |= np.rint(columns - slope * rows) % 23 == 0
    pixels[lines & (pixels > 100)] = 160

    height, width = extent(sheets.ink_of(pixels))

    assert [height, width] == pytest.approx([40, 12], abs=3)


def test_a_stroke_that_reaches_two_borders_is_neither_desk_nor_line() -> None:
    pixels = np.full((100, 100), 240, np.uint8)
    pixels[:, 40:60] = 30

    assert extent(sheets.ink_of(pixels))[1] == 20


def test_light_that_falls_off_is_no_desk() -> None:
    light = np.linspace(1, 0.3, 140)[:, None]
    pixels = (sheet() * light).astype(np.uint8)

    assert sheets.ink_of(pixels).shape == pixels.shape
    assert extent(sheets.ink_of(pixels)) == (40, 12)


def test_a_small_picture_is_taken_whole() -> None:
    pixels = np.full((28, 28), 200, np.uint8)
    pixels[:4] = 20

    assert sheets.ink_of(pixels).shape == (28, 28)
