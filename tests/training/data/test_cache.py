from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.training.data.test_pictures import write_cifar10
from training.data import pictures, sources
from training.data.cache import NO_CACHE, Cache
from training.data.dataset import Dataset


@pytest.fixture
def decoded() -> list[str]:
    return []


@pytest.fixture
def source(tmp_path: Path) -> Path:
    file = tmp_path / "source" / "pictures.zip"
    file.parent.mkdir()
    file.write_bytes(b"pictures")
    return file


@pytest.fixture
def decode(digits: Dataset, decoded: list[str], source: Path) -> Callable[[], Dataset]:
    """Decodes `source` into as many digits as it has bytes, and notes that it did."""

    def decode() -> Dataset:
        decoded.append("once")
        return digits.subset(len(source.read_bytes()))

    return decode


def test_the_second_run_reads_the_same_tensors_without_decoding(
    tmp_path: Path, source: Path, decode: Callable[[], Dataset], decoded: list[str]
) -> None:
    first = Cache(tmp_path / "cache").get("digits/train", [source], decode)
    second = Cache(tmp_path / "cache").get("digits/train", [source], decode)

    assert decoded == ["once"]
    assert second.digest == first.digest
    assert replace(second, inputs=first.inputs, labels=first.labels) == first


def test_a_source_that_changed_is_decoded_again_and_its_old_entry_is_removed(
    tmp_path: Path, source: Path, decode: Callable[[], Dataset], decoded: list[str]
) -> None:
    cache = Cache(tmp_path / "cache")
    cache.get("digits/train", [source], decode)
    cache.get("digits/test", [source], decode)
    source.write_bytes(b"more pictures")

    again = cache.get("digits/train", [source], decode)
    os.utime(source, ns=(1, 1))
    cache.get("digits/train", [source], decode)

    assert len(again) == len(b"more pictures")
    assert len(decoded) == 4
    assert len(list((tmp_path / "cache").glob("digits-train-*"))) == 1
    assert len(list((tmp_path / "cache").glob("digits-test-*"))) == 1


@pytest.mark.parametrize("damage", ["cut off", "flipped", "another file"])
def test_a_damaged_entry_is_ignored_and_written_again(
    damage: str, tmp_path: Path, source: Path, decode: Callable[[], Dataset], decoded: list[str]
) -> None:
    cache = Cache(tmp_path / "cache")
    first = cache.get("digits/train", [source], decode)
    (entry,) = (tmp_path / "cache").iterdir()
    whole = entry.read_bytes()
    flipped = bytearray(whole)
    flipped[whole.index(first.inputs.numpy().tobytes()) + 200] ^= 1
    damaged = {"cut off": whole[: len(whole) // 2], "flipped": bytes(flipped), "another file": b"{}"}
    entry.write_bytes(damaged[damage])

    second = cache.get("digits/train", [source], decode)
    third = cache.get("digits/train", [source], decode)

    assert len(decoded) == 2
    assert second.digest == third.digest == first.digest


def test_a_folder_that_cannot_be_written_costs_a_log_line(
    tmp_path: Path, source: Path, decode: Callable[[], Dataset], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")

    with caplog.at_level(logging.INFO, logger="training"):
        data = Cache(tmp_path / "file" / "cache").get("digits/train", [source], decode)

    assert len(data) == len(b"pictures")
    assert "digits/train is not cached in" in caplog.text


def test_a_write_that_fails_leaves_no_file_behind(
    tmp_path: Path, source: Path, decode: Callable[[], Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full)

    Cache(tmp_path / "cache").get("digits/train", [source], decode)

    assert list((tmp_path / "cache").iterdir()) == []


def test_without_a_folder_nothing_is_kept(source: Path, decode: Callable[[], Dataset], decoded: list[str]) -> None:
    for _ in range(2):
        NO_CACHE.get("digits/train", [source], decode)

    assert len(decoded) == 2


@pytest.mark.parametrize("zipped", [True, False], ids=["zips", "folders"])
def test_pictures_of_cifar10_are_decoded_once_for_the_training_and_the_held_out_split(
    zipped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cifar10(tmp_path / "data", zipped=zipped)
    cache = Cache(tmp_path / "cache")
    first = sources.load("cifar10", "train", tmp_path / "data", cache=cache)
    sources.load("cifar10", "test-jpeg", tmp_path / "data", cache=cache)
    monkeypatch.setattr(pictures, "official", lambda *_: pytest.fail("it decoded again"))

    again, held_out, tested = (
        sources.load("cifar10", split, tmp_path / "data", cache=cache) for split in ("train", "holdout", "test-jpeg")
    )

    assert again.digest == first.digest
    assert held_out.title == "cifar10/holdout"
    assert tested.title == "cifar10/test-jpeg"


def test_a_folder_of_pictures_is_decoded_again_when_one_is_added(tmp_path: Path) -> None:
    def add(name: str) -> None:
        for label in ("a", "b"):
            (tmp_path / "mine" / label).mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), 99).save(tmp_path / "mine" / label / name)

    cache = Cache(tmp_path / "cache")
    sizes = []
    add("1.png")
    for name in ("2.png", "3.png"):
        add(name)
        sizes += [len(sources.load(f"folder:{tmp_path / 'mine'}", "test", Path(), cache=cache)) for _ in range(2)]
    add("4.png")

    assert sizes == [2, 2, 2, 2]
    assert len(sources.load(f"folder:{tmp_path / 'mine'}", "train", Path(), cache=cache)) == 6
    assert len(list((tmp_path / "cache").iterdir())) == 2
