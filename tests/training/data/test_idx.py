from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import torch

from training.data.idx import read

TWO_BY_THREE = bytes([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, *range(6)])


def test_a_file_has_the_shape_that_it_declares(tmp_path: Path) -> None:
    file = tmp_path / "images"
    file.write_bytes(TWO_BY_THREE)

    assert torch.equal(read(file), torch.arange(6, dtype=torch.uint8).view(2, 3))


@pytest.mark.parametrize(
    "bad",
    [b"", TWO_BY_THREE[:7], TWO_BY_THREE[:-1], TWO_BY_THREE + b"\0", b"\0\0\x0d" + TWO_BY_THREE[3:]],
    ids=["empty", "cut off in the header", "short", "long", "floats"],
)
def test_a_file_that_is_not_whole_or_not_of_bytes_is_an_error(bad: bytes, tmp_path: Path) -> None:
    file = tmp_path / "images"
    file.write_bytes(bad)

    with pytest.raises(ValueError, match="must"):
        read(file)


def test_a_compressed_file_is_not_taken_for_an_idx_file(tmp_path: Path) -> None:
    file = tmp_path / "images"
    file.write_bytes(gzip.compress(TWO_BY_THREE))

    with pytest.raises(ValueError, match="must"):
        read(file)
