"""Signs that stand side by side are told apart; the parts of one sign stay together."""

from __future__ import annotations

import numpy as np
import pytest

from service.images.split import Drawing, separate


def sheet(*boxes: tuple[int, int, int, int], height: int = 60, width: int = 100) -> Drawing:
    """Ink in each box of rows and columns."""
    ink = np.zeros((height, width), np.float32)
    for top, bottom, left, right in boxes:
        ink[top:bottom, left:right] = 200
    return ink


def columns(ink: Drawing) -> tuple[int, int]:
    drawn = np.nonzero(ink.any(axis=0))[0]
    return int(drawn[0]), int(drawn[-1]) + 1


LEFT, RIGHT = (10, 50, 10, 30), (12, 52, 50, 60)


@pytest.mark.parametrize("times", [1, 7])
def test_signs_come_from_left_to_right_and_share_no_ink(times: int) -> None:
    ink = sheet(RIGHT, LEFT).repeat(times, axis=0).repeat(times, axis=1)

    first, second = separate(ink)

    assert (columns(first), columns(second)) == ((10 * times, 30 * times), (50 * times, 60 * times))
    assert np.array_equal(first + second, ink)


def test_signs_that_lean_over_each_other_are_told_apart() -> None:
    ink = np.zeros((60, 100), np.float32)
    for row in range(10, 50):
        left = 60 - row // 2
        ink[row, left : left + 6] = ink[row, left + 16 : left + 22] = 200  # no column between them is empty

    assert [int((found > 0).sum()) for found in separate(ink)] == [240, 240]


@pytest.mark.parametrize(
    "boxes",
    [
        [LEFT],
        [(20, 50, 20, 26), (8, 13, 20, 26)],  # an i
        [(20, 50, 20, 34), (8, 14, 30, 44)],  # a 5 whose bar is not joined
        [(10, 40, 10, 14), (36, 40, 14, 30), (10, 55, 24, 28)],  # an open 4
        [LEFT, (30, 32, 80, 82)],  # dust
        [(10, 50, 20, 30), (52, 56, 60, 64)],  # a full stop, which is no digit
    ],
    ids=["one stroke", "dot", "bar", "open", "dust", "full stop"],
)
def test_the_parts_of_a_sign_stay_together(boxes: list[tuple[int, int, int, int]]) -> None:
    ink = sheet(*boxes)

    (only,) = separate(ink)

    assert np.array_equal(only, ink)


def test_a_part_goes_with_its_sign_and_dust_with_none() -> None:
    dot, dust = (4, 8, 52, 58), (30, 32, 84, 86)

    first, second = separate(sheet(LEFT, RIGHT, dot, dust))

    assert np.array_equal(first, sheet(LEFT))
    assert np.array_equal(second, sheet(RIGHT, dot))


@pytest.mark.parametrize(
    "ink",
    [np.zeros((30, 30), np.float32), np.random.default_rng(0).random((300, 500), np.float32)],
    ids=["blank", "grain"],
)
def test_a_picture_without_signs_stays_whole(ink: Drawing) -> None:
    (only,) = separate(ink)

    assert only is ink
