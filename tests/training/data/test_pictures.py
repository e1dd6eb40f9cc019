from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from training.data import sources
from training.errors import TrainingError

KINDS = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def picture(shade: int, *, mode: str = "RGB", size: tuple[int, int] = (32, 32), suffix: str = "png") -> bytes:
    file = io.BytesIO()
    Image.new(mode, size, shade if mode == "L" else (shade, 0, 255 - shade)).save(file, suffix)
    return file.getvalue()


def write(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def test_a_folder_with_train_and_test_keeps_its_pictures_and_its_split(tmp_path: Path) -> None:
    root = write(
        tmp_path / "pets",
        {
            f"{split}/{kind}/{i}.png": picture(i)
            for split in ("train", "test")
            for kind in ("cat", "ant")
            for i in (3, 7)
        },
    )

    train, test = (sources.load(f"folder:{root}", split, Path()) for split in ("train", "test"))

    assert (train.title, test.title) == ("pets/train", "pets/test")
    assert train.classes == test.classes == ("ant", "cat")
    assert train.inputs.shape == (4, 3, 32, 32)
    assert train.inputs[:, :, 0, 0].tolist() == [[3, 0, 252], [7, 0, 248]] * 2
    assert train.labels.tolist() == [0, 0, 1, 1]


def test_a_folder_without_them_tests_on_every_fifth_picture_of_each_class(tmp_path: Path) -> None:
    root = write(tmp_path, {f"{kind}/{i}.png": picture(i, mode="L") for kind in "ab" for i in range(10)})

    train, test = (sources.load(f"folder:{root}", split, Path()) for split in ("train", "test"))

    assert train.inputs.shape == (16, 1, 32, 32)
    assert test.inputs[:, 0, 0, 0].tolist() == [0, 5, 0, 5]


def test_pictures_of_several_sizes_or_large_ones_become_32_by_32_and_one_in_colour_makes_all_so(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "a/1.png": picture(9, mode="L", size=(20, 30)),
            "a/2.jpg": picture(9, size=(500, 300), suffix="jpeg"),
            "b/1.png": picture(9, mode="L"),
            "b/2.png": picture(9, mode="L"),
        },
    )

    data = sources.load(f"folder:{root}", "train", Path())

    assert data.inputs.shape == (2, 3, 32, 32)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a/1.png": picture(1)}, r"two or more classes.*Given: 1 with pictures"),
        ({}, r"Given: 0 with pictures"),
        ({"a/1.png": picture(1), "b/1.png": b"text"}, r"b/1\.png must be a picture"),
        (
            {"train/a/1.png": picture(1), "train/b/1.png": picture(1), "test/c/1.png": picture(1)},
            r"must have the classes of train\. Given: c",
        ),
    ],
)
def test_a_folder_that_will_not_do_is_an_error_that_says_why(
    tmp_path: Path, files: dict[str, bytes], message: str
) -> None:
    root = write(tmp_path, files)

    with pytest.raises(TrainingError, match=message):
        sources.load(f"folder:{root}", "test", Path())


def write_cifar10(root: Path, *, zipped: bool) -> None:
    """100 training images whose shade is their index, ten of each class, and 20 JPEGs for testing."""
    train = {f"train/{KINDS[i % 10]}/{i:05}.png": picture(i) for i in range(100)}
    test = {f"test-jpeg/{kind}/{i:04}.jpg": picture(i, suffix="jpeg") for i in range(2) for kind in KINDS}
    if not zipped:
        write(root / "cifar10", train | test)
        return
    (root / "cifar10").mkdir(parents=True)
    for name, files in {
        "train-1": dict(list(train.items())[:50]),
        "train-2": dict(list(train.items())[50:]),
        "test-jpeg": test,
    }.items():
        with zipfile.ZipFile(root / "cifar10" / f"{name}.zip", "w") as archive:
            for file, content in files.items():
                archive.writestr(file, content)


@pytest.mark.parametrize("zipped", [True, False], ids=["zips", "folders"])
def test_cifar10_as_pictures_is_read_in_official_order_and_held_out_by_index(tmp_path: Path, zipped: bool) -> None:
    write_cifar10(tmp_path, zipped=zipped)

    train, holdout, test = (sources.load("cifar10", split, tmp_path) for split in ("train", "holdout", "test-jpeg"))

    shades = train.inputs[:, 0, 0, 0].tolist(), holdout.inputs[:, 0, 0, 0].tolist()
    assert (train.title, holdout.title, test.title) == ("cifar10/train", "cifar10/holdout", "cifar10/test-jpeg")
    assert sorted(shades[0] + shades[1]) == list(range(100))
    assert shades == (sorted(shades[0]), sorted(shades[1]))
    assert holdout.labels.bincount().tolist() == [1] * 10
    assert holdout.labels.tolist() == [shade % 10 for shade in shades[1]]
    assert len(test) == 20


def test_cifar10_from_torchvision_holds_out_the_same_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Published(datasets.CIFAR10):
        def __init__(self, root: Path, *, train: bool, download: bool) -> None:
            if not download:
                raise RuntimeError("not there")
            self.data = np.stack([np.asarray(Image.open(io.BytesIO(picture(i)))) for i in range(100)])
            self.targets = [i % 10 for i in range(100)]
            self.classes = KINDS

    monkeypatch.setattr(datasets, "CIFAR10", Published)
    write_cifar10(tmp_path / "pictures", zipped=True)

    for split in ("train", "holdout"):
        published, pictures = (sources.load("cifar10", split, tmp_path / root) for root in ("none", "pictures"))
        assert published.digest == pictures.digest
    assert sources.load("cifar10", "test", tmp_path).inputs.dtype == torch.uint8


def test_a_split_whose_files_are_missing_is_an_error_that_says_where_they_belong(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=re.escape(str(tmp_path / "cifar10" / "test-jpeg"))):
        sources.load("cifar10", "test-jpeg", tmp_path)


@pytest.mark.parametrize("name", ["fashion_mnist", "kmnist", "cifar100", "cifar10"])
def test_what_torchvision_cannot_download_is_an_error_with_the_folder_it_looked_in(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("no network")

    for kind in (datasets.FashionMNIST, datasets.KMNIST, datasets.CIFAR10, datasets.CIFAR100):
        monkeypatch.setattr(kind, "download", offline)

    with pytest.raises(TrainingError, match=r"--data-dir PATH, .*go online") as raised:
        sources.load(name, "test", tmp_path)

    assert str(tmp_path) in str(raised.value)
