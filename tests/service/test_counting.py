"""Numbers of things in words."""

from __future__ import annotations

import pytest

from service.counting import counted


@pytest.mark.parametrize(
    ("number", "expected"), [(0, "0 files"), (1, "1 file"), (2, "2 files"), (12_000, "12,000 files")]
)
def test_one_thing_is_no_plural(number: int, expected: str) -> None:
    assert counted(number, "file") == expected
    assert counted(number, "class", "classes") == expected.replace("file", "class").replace("classs", "classes")
