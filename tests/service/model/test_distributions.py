"""How far some counts are from others."""

from __future__ import annotations

import numpy as np
import pytest

from service.contract.manifest import Distribution
from service.model.distributions import bins_of_classes, bins_of_values, distance


def test_counts_in_the_same_proportions_have_no_distance() -> None:
    assert distance(np.array([10, 20, 0]), np.array([100, 200, 0])) == 0


def test_the_distance_is_chi_squared_of_the_table_of_both() -> None:
    # [[10, 30], [50, 50]]: expected [[17.14, 22.86], [42.86, 57.14]].
    expected = sum(
        (o - e) ** 2 / e for o, e in zip((10, 30, 50, 50), (120 / 7, 160 / 7, 300 / 7, 400 / 7), strict=True)
    )

    assert distance(np.array([10, 30]), np.array([50, 50])) == pytest.approx(expected)


def test_a_window_in_which_nothing_was_counted_has_no_distance() -> None:
    assert distance(np.array([0, 0]), np.array([5, 5])) == 0


def test_many_windows_are_compared_at_once() -> None:
    windows = np.array([[1, 1], [2, 0]])

    assert distance(windows, np.array([5, 5])).tolist() == [distance(w, np.array([5, 5])) for w in windows]


def test_values_fall_into_the_bin_whose_edge_they_do_not_exceed_and_nan_into_the_last() -> None:
    found = Distribution(edges=(0.5, 0.9), counts=(1, 1, 1), limit=1)

    assert bins_of_values(np.array([0.1, 0.5, 0.6, 0.95, np.nan]), found).tolist() == [0, 0, 1, 2, 2]


def test_classes_beyond_the_bins_share_them() -> None:
    assert bins_of_classes(np.array([0, 3, 4, 9]), Distribution(counts=(1, 1, 1, 1), limit=1)).tolist() == [0, 3, 0, 1]
