from __future__ import annotations

import re
import sys
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from torchvision.datasets import MNIST

from training.data import sources
from training.data.dataset import Dataset
from training.errors import OptionError, TrainingError


def test_digits_look_like_mnist_and_split_by_class_always_the_same_way(digits: Dataset, digits_test: Dataset) -> None:
    counts = digits_test.labels.bincount()

    assert (len(digits), len(digits_test)) == (1433, 364)
    assert digits.inputs.shape[1:] == (1, 28, 28)
    assert digits.inputs.dtype == torch.uint8
    assert digits.inputs.max() == 255
    assert digits.inputs[:, :, :4].max() == 0  # a black border, as MNIST has
    assert counts.min() >= 35
    assert counts.max() <= 37
    assert digits_test.digest == "8fe4dadaef14bf32bbb44d0104f88549da29902d4ddb59a81d2d3d7292ca83aa"


def test_digits_are_read_without_scikit_learn_itself(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)

    assert sources.load("digits", "train", Path()).digest == digits.digest


def test_without_scikit_learn_there_are_no_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)

    with pytest.raises(OptionError, match=r"scikit-learn must be installed, .* Given: it is not"):
        sources.load("digits", "train", Path())


def test_no_image_of_digits_is_in_both_splits(digits: Dataset, digits_test: Dataset) -> None:
    train = {image.numpy().tobytes() for image in digits.inputs}
    test = {image.numpy().tobytes() for image in digits_test.inputs}

    assert not train & test


def test_an_unknown_dataset_is_refused_with_those_there_are() -> None:
    with pytest.raises(OptionError, match=r"data must be one of mnist, .*csv:PATH.*\. Given: 'imagenet'"):
        sources.load("imagenet", "train", Path())


def test_without_files_and_without_network_the_error_says_both_ways_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(self: MNIST) -> None:
        raise URLError("no network")

    monkeypatch.setattr(MNIST, "download", offline)

    with pytest.raises(TrainingError, match=re.escape(str(tmp_path / "MNIST" / "raw"))) as raised:
        sources.load("mnist", "train", tmp_path)

    assert "--data-dir PATH" in str(raised.value)
    assert "go online" in str(raised.value)
    assert "no network" in str(raised.value)


def test_files_that_are_missing_are_downloaded_and_files_that_are_there_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloads = []

    def download(self: MNIST) -> None:
        downloads.append(self.raw_folder)
        write_tiny_mnist(Path(self.raw_folder))

    monkeypatch.setattr(MNIST, "download", download)

    first = sources.load("mnist", "train", tmp_path)
    second = sources.load("mnist", "train", tmp_path)

    assert downloads == [str(tmp_path / "MNIST" / "raw")]
    assert first.digest == second.digest
    assert first.inputs.shape == (3, 1, 28, 28)
    assert first.labels.tolist() == [5, 0, 4]


def test_files_that_do_not_parse_are_an_error_that_names_their_folder(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    write_tiny_mnist(raw)
    (raw / "train-images-idx3-ubyte").write_bytes(b"not an idx file")

    with pytest.raises(TrainingError, match=re.escape(str(raw))):
        sources.load("mnist", "train", tmp_path)


def test_mnist_and_its_kin_are_read_without_torchvision_which_takes_longer_to_import_than_an_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    for source in ("MNIST", "FashionMNIST", "KMNIST"):
        write_tiny_mnist(tmp_path / source / "raw")

    loaded = [sources.load(name, "test", tmp_path) for name in ("mnist", "fashion_mnist", "kmnist")]

    assert all(data.inputs.shape == (3, 1, 28, 28) and data.labels.tolist() == [5, 0, 4] for data in loaded)
    assert [data.classes[9] for data in loaded] == ["9", "Ankle boot", "wo"]


@pytest.mark.parametrize("bad", [b"", b"\0\0\x08", b"\0\0\x0d\1" + bytes(16), b"\0\0\x08\3\0\0\0\3"], ids=repr)
def test_what_is_not_a_whole_file_of_bytes_is_not_guessed_at(bad: bytes, tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    write_tiny_mnist(raw)
    whole = (raw / "train-images-idx3-ubyte").read_bytes()

    for content in (bad, whole[:-1], whole + b"\0"):
        (raw / "train-images-idx3-ubyte").write_bytes(content)
        with pytest.raises(TrainingError, match=r"files that do not parse \(train-images-idx3-ubyte must "):
            sources.load("mnist", "train", tmp_path)


def write_tiny_mnist(raw: Path) -> None:
    """The four files of MNIST with three images each, in the published format."""
    raw.mkdir(parents=True, exist_ok=True)
    for split in ("train", "t10k"):
        header = b"".join(number.to_bytes(4, "big") for number in (0x803, 3, 28, 28))
        (raw / f"{split}-images-idx3-ubyte").write_bytes(header + bytes(range(196)) * 12)
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(b"\x00\x00\x08\x01\x00\x00\x00\x03\x05\x00\x04")


def test_moons_are_two_classes_of_points_and_test_on_others() -> None:
    train, test = (sources.load("moons", split, Path()) for split in ("train", "test"))

    assert train.inputs.shape == test.inputs.shape == (1000, 2)
    assert train.inputs.dtype == torch.float32
    assert train.labels.bincount().tolist() == [500, 500]
    assert not {tuple(point) for point in train.inputs.tolist()} & {tuple(point) for point in test.inputs.tolist()}


@pytest.mark.data
def test_mnist_is_read_as_published(mnist_root: Path) -> None:
    train, test = (sources.load("mnist", split, mnist_root) for split in ("train", "test"))

    assert (len(train), len(test)) == (60_000, 10_000)
    assert train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert test.title == "mnist/test"
    assert test.classes == tuple("0123456789")
