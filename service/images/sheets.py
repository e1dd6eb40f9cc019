"""Find the ink on a sheet of paper: the light it lies in, the desk beside it and the lines on it are none.

Knows nothing about digits or models.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_LEAST_SIDE = 48  # of a photo; in a smaller picture, a desk or a line is a row or two

_PAPER_FITS = 5  # of the plane to the border; it hardly moves any more
_PAPER_GRAIN = 2.0  # of 255; what is nearer to the plane counts as much as what lies on it

_DESK_STEP = 0.12  # of the picture's range, between a desk and the paper
_EDGE_SHARE = 0.7  # of that step, within three rows
_DESK_SHARE = 0.7  # of the outermost row; a stroke that touches the edge of a sheet covers less
_MOST_DESK = 0.45  # of the picture, from each side
_MOST_TILT = 0.12  # of a desk's edge, as a share of the other side

_LINE_LEVEL = 0.08  # of the darkest ink; fainter lines harm nobody
_LINE_SLOPES = np.linspace(-0.08, 0.08, 33)
_LINE_STRIPS = 12
_MOST_LINES = 0.4  # of the rows; a digit that fills its picture is no ruling
_LINE_SPREAD = 1.6  # of a line's mean level; what is darker is ink that crosses it
_INK_NEIGHBOURS = 4  # of 9 pixels, at the least, where lines were taken away

Pixels = npt.NDArray[np.uint8]
Drawing = npt.NDArray[np.float32]


def ink_of(pixels: Pixels) -> Drawing:
    """Return how much ink is at each place, from 0 for paper. pixels: uint8 [H, W] -> float32 [h, w], the sheet's.

    What differs most from the paper, dark or light, is ink.
    """
    photo = min(pixels.shape) >= _LEAST_SIDE
    sheet = _without_desk(pixels) if photo else pixels
    ink = sheet.astype(np.float32) - _paper(sheet)
    ink = (-ink if -ink.min() > ink.max() else ink).clip(0)
    lines = _lines(ink) if min(ink.shape) >= _LEAST_SIDE else None
    return ink if lines is None else _without_lines(ink, lines)


def border(pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the outermost pixels, each once, of [H, W]."""
    return np.concatenate((pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]))


# Light


def _paper(pixels: Pixels) -> Drawing:
    """Return how light the paper is: the plane that most of the border lies on, [H, W] or, where level, [1, 1].

    A photo is lighter at one side than at the other, by more than a pale stroke differs from the paper. The plane of
    least absolute deviations minds no ink that touches the border; each fit weighs with what the last one left over.
    """
    edge = border(pixels).astype(np.float64)
    if edge.min() == edge.max():
        return np.full((1, 1), edge[0], np.float32)  # a drawing: even paper, and no light
    rows, columns = (np.linspace(-0.5, 0.5, side, dtype=np.float32) for side in pixels.shape)
    across = np.broadcast_to(columns, pixels.shape), np.broadcast_to(rows[:, None], pixels.shape)
    places = np.stack((np.ones_like(edge), *map(border, across)))  # [3, border]
    plane = np.array([np.median(edge), 0, 0])
    for _ in range(_PAPER_FITS):
        weighted = places / np.maximum(abs(edge - plane @ places), _PAPER_GRAIN)
        plane = np.linalg.pinv(weighted @ places.T) @ (weighted @ edge)
    level, right, down = plane.astype(np.float32)
    paper: Drawing = (level + down * rows)[:, None] + right * columns
    return paper


# The desk


def _without_desk(pixels: Pixels) -> Pixels:
    """Return the part of the picture that shows the sheet, where a desk is seen at its sides."""
    sheet = pixels
    for _ in range(4):  # each side is the upper one once
        sheet = np.rot90(sheet)
        sheet = sheet[_desk_rows(sheet) :]
    return sheet


def _desk_rows(pixels: Pixels) -> int:
    """Return how many of the upper rows show something else than the paper: up to a step that spans the picture."""
    rows = np.median(pixels, axis=1)  # hardly any row is mostly ink
    half = round(len(rows) * _MOST_DESK)
    step = _DESK_STEP * float(np.ptp(pixels))
    if half < 2 or step < 1:
        return 0
    beyond = float(np.median(rows[half:]))
    desk = float(rows[0])
    if abs(desk - beyond) < step or abs(float(rows[-1]) - beyond) >= step:
        return 0  # paper on both sides, or ink in the middle
    near_desk = abs(rows - desk) < abs(rows - beyond)
    edge = int(np.argmin(near_desk))
    jump = abs(float(rows[min(edge + 1, len(rows) - 1)]) - float(rows[max(0, edge - 2)]))
    drift = abs(desk - float(rows[max(0, edge - 2)]))
    if not 0 < edge < half or jump < max(_EDGE_SHARE * step, 2 * drift):
        return 0  # it has no end, or no edge: a light that falls off
    paper = float(np.median(rows[edge + 1 : edge + 1 + max(2, half // 2)]))
    desk = float(np.median(rows[:edge]))
    if (abs(pixels[0] - desk) < abs(pixels[0] - paper)).mean() < _DESK_SHARE:
        return 0
    # The edge is seldom quite level: go on as long as less and less of a row is desk.
    share = 0.5
    last = min(edge + 1 + round(_MOST_TILT * pixels.shape[1]), len(rows) - 2)
    while edge < last:
        now = float((abs(pixels[edge] - desk) < abs(pixels[edge] - paper)).mean())
        if now > share or now == 0:
            break
        share, edge = now, edge + 1
    return edge + 1


# Lines


def _lines(ink: Drawing) -> Drawing | None:
    """Return the level of the ruling at each place, or None if lines reach the border nowhere."""
    darkest = float(ink.max())
    across = _level_lines(ink, darkest)
    down = _level_lines(ink.T, darkest)
    if across is None:
        return None if down is None else down.T
    return across if down is None else np.maximum(across, down.T)


def _level_lines(ink: Drawing, darkest: float) -> Drawing | None:
    """Return the level of lines that go from the left border to the right one, a little tilted or not."""
    height, width = ink.shape
    parts = np.array_split(np.arange(width), _LINE_STRIPS)
    at_ends = [float(ink[:, part].mean(axis=1).max()) for part in (parts[0], parts[-1])]
    if not darkest or min(at_ends) < _LINE_LEVEL * darkest:
        return None
    capped = np.minimum(ink, 0.7 * darkest)  # so that a stroke in a strip weighs little
    strips = np.stack([capped[:, part].mean(axis=1) for part in parts])  # [strips, H]
    middles = np.array([part.mean() for part in parts]) - width / 2
    slope, level = _best_lines(strips, middles)
    drawn = level > _LINE_LEVEL * darkest
    if not drawn.any() or drawn.mean() > _MOST_LINES:
        return None
    wide = np.max([level, np.roll(level, 1), np.roll(level, -1)], axis=0)
    rows = np.arange(height)[:, None] - np.rint(slope * (np.arange(width) - width / 2))
    lines: Drawing = wide[rows.clip(0, height - 1).astype(int)]
    lines[lines < _LINE_LEVEL / 2 * darkest] = 0
    return lines


def _best_lines(strips: Drawing, middles: npt.NDArray[np.float64]) -> tuple[float, Drawing]:
    """Return the slope at which rows hold the most ink in nearly all strips, [strips, H], and what each row holds."""
    best, slope, level = -1.0, 0.0, strips[0]
    rows = np.arange(strips.shape[1])
    for tried in _LINE_SLOPES[np.argsort(abs(_LINE_SLOPES))]:  # level ones first, so that they win a tie
        places = (rows + np.rint(tried * middles)[:, None]).clip(0, len(rows) - 1).astype(int)
        moved = np.take_along_axis(strips, places, axis=1)
        held = np.partition(moved, 3, axis=0)[3]  # ink adds to a line, and a tilt may blur it in a strip
        score = float(np.square(held).sum())
        if score > best * 1.02:
            best, slope = score, float(tried)
            level = np.minimum(held, np.minimum(moved[:2].max(axis=0), moved[-2:].max(axis=0)))
    return slope, level


def _without_lines(ink: Drawing, lines: Drawing) -> Drawing:
    kept = np.where(ink > _LINE_SPREAD * lines, ink, 0)
    solid = np.pad((kept > 0.25 * kept.max()).astype(np.uint8), 1)
    height, width = ink.shape
    around = sum(solid[top : top + height, left : left + width] for top in range(3) for left in range(3))
    cleaned: Drawing = np.where(around >= _INK_NEIGHBOURS, kept, 0)
    return cleaned if cleaned.any() else ink
