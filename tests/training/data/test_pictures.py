from __future__ import annotations

import io
import re
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from service.contract.manifest import Fit, ImageInput, Style
from service.images.decode import decode
from training.data import sources
from training.errors import TrainingError
from training.publishing.publish import input_spec

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


@pytest.mark.parametrize("split_up", [False, True])
def test_what_is_passed_over_is_said_once(split_up: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = {f"{name}/{number}.png": picture(number) for name in "ab" for number in range(5)}
    others = (
        "a/x.heic",
        "b/y.HEIC",
        "b/z.avif",
        "b/README",
        "b/.DS_Store",
        "a/more/1.png",
        "a/more/2.png",
        "loose.jpg",
    )
    files |= dict.fromkeys(others, picture(0))
    folders = ("train/", "test/") if split_up else ("",)
    root = write(tmp_path, {f"{folder}{name}": content for folder in folders for name, content in files.items()})

    for split in ("train", "test"):
        sources.load(f"folder:{root}", split, tmp_path)

    [said] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    each = [(2, ".heic"), (2, "in further folders"), (1, ".avif"), (1, "without an ending"), (1, "beside the folders")]
    expected = {f"{number * len(folders)} {what}" for number, what in each}
    assert said.startswith(f"passed over in {root}: ")
    assert set(said.partition(": ")[2].partition(". What")[0].split(", ")) == expected


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
        ({"a/1.png": picture(1)}, r"two or more classes.*Given: one class, a"),
        ({}, r"two or more classes.*Given: none"),
        ({"a/1.png": picture(1), "a/2.png": picture(1), "b/1.png": picture(1)}, r"2 examples or more.*Given: one of b"),
        (
            {f"{name}/{n}.png": b"text" if name == "b" else picture(1) for name in "ab" for n in (1, 2)},
            r"b/1\.png must be a picture",
        ),
        (
            {f"train/{name}/{n}.png": picture(1) for name in "ab" for n in (1, 2)} | {"test/c/1.png": picture(1)},
            r"must have the classes of train\. Given: c",
        ),
        (
            {f"{name}/{n}.png": picture(1) for name in "ab" for n in (1, 2)} | {"c/2023/1.png": picture(1)},
            r"each folder in .* must .* hold its pictures itself.* Given: c without any; c holds folders instead",
        ),
        (
            {f"train/{name}/{n}.png": picture(1) for name in "ab" for n in (1, 2)}
            | {"train/c/1.HEIC": b"ftyp", "test/a/1.png": picture(1)},
            r"each folder in .*train must be a class.* Given: c without any; c holds \.heic instead",
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
    class Published(datasets.CIFAR10):  # type: ignore[misc] # torchvision has no types
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


# What is learnt is what will be served


def grey(height: int = 40, width: int = 40) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width), np.uint8)


def colour(height: int = 40, width: int = 60) -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8))


def ink() -> Image.Image:
    """A dark seven on light paper."""
    sheet = np.full((60, 50), 230, np.uint8)
    sheet[10:15, 10:40] = sheet[10:50, 34:40] = 40
    return Image.fromarray(sheet)


def with_alpha(mode: str) -> Image.Image:
    picture = colour().convert("RGBA")
    picture.putalpha(Image.fromarray(grey(40, 60)))
    return picture.convert(mode)


def oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def as_file(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def sixteen_bit_colour() -> bytes:
    """A PNG that Pillow cannot write."""
    lines = b"".join(b"\0" + np.arange(180, dtype=">u2").tobytes() for _ in range(40))
    return png_of(60, 40, 16, 2, 0, lines)


def interlaced() -> bytes:
    """The same of one that is interlaced."""
    passes = ((0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2), (1, 2, 0, 1))
    lines = [b"\0" + line.tobytes() for top, down, left, right in passes for line in grey()[top::down, left::right]]
    return png_of(40, 40, 8, 0, 1, b"".join(lines))


def png_of(width: int, height: int, depth: int, kind: int, interlace: int, lines: bytes) -> bytes:
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, interlace)),
        (b"IDAT", zlib.compress(lines)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


EVERY_KIND: dict[str, bytes] = {
    "1": as_file(Image.fromarray(grey()).convert("1")),
    "L": as_file(Image.fromarray(grey())),
    "L, 28 x 28": as_file(Image.fromarray(grey(28, 28))),
    "LA": as_file(with_alpha("LA")),
    "I;16": as_file(Image.fromarray(np.linspace(0, 65_535, 1600).astype(np.uint16).reshape(40, 40))),
    "P": as_file(colour().convert("P")),
    "P, see-through": as_file(colour().convert("P"), transparency=bytes(range(256))),
    "P of greys": as_file(Image.fromarray(grey()).convert("P")),
    "RGB": as_file(colour()),
    "RGB, see-through": as_file(Image.new("RGB", (40, 40), (9, 9, 9)), transparency=(9, 9, 9)),
    "RGBA": as_file(with_alpha("RGBA")),
    "RGB, 16-bit": sixteen_bit_colour(),
    "interlaced": interlaced(),
    "grey JPEG": as_file(Image.fromarray(grey()), "JPEG"),
    "CMYK JPEG": as_file(colour().convert("CMYK"), "JPEG"),
    "progressive JPEG": as_file(colour(), "JPEG", progressive=True),
    "large JPEG": as_file(colour().resize((2600, 2100)), "JPEG"),
    **{f"JPEG, orientation {n}": as_file(colour(), "JPEG", exif=oriented(n)) for n in range(1, 9)},
    "PNG, orientation 6": as_file(colour(), exif=oriented(6)),
    "WebP, orientation 8": as_file(colour(), "WEBP", exif=oriented(8)),
    "JPEG with broken EXIF": as_file(colour(), "JPEG", exif=b"Exif\0\0garbage!garbage!"),
    "animated GIF": as_file(colour(), "GIF", save_all=True, append_images=[colour().rotate(90)]),
    "animated WebP": as_file(colour(), "WEBP", save_all=True, append_images=[colour().rotate(90)]),
    "see-through WebP": as_file(with_alpha("RGBA"), "WEBP", lossless=True),
    "BMP": as_file(colour(), "BMP"),
    "ink": as_file(ink()),
    "ink in colour": as_file(ink().convert("RGB"), "JPEG"),
    "I as TIFF": as_file(Image.new("I", (40, 40), 30_000), "TIFF"),
    "F as TIFF": as_file(Image.fromarray(grey().astype(np.float32)), "TIFF"),
    "PPM": as_file(colour(), "PPM"),
}


@pytest.mark.parametrize("fit", ["stretch", "letterbox", "crop"])
@pytest.mark.parametrize("style", ["photo", "mnist"])
@pytest.mark.parametrize("kind", EVERY_KIND)
def test_every_kind_of_picture_is_learnt_as_the_service_decodes_it(
    tmp_path: Path, kind: str, style: Style, fit: Fit
) -> None:
    content = EVERY_KIND[kind]
    suffix = {b"\xff\xd8": "jpg", b"II": "tif", b"P6": "ppm"}.get(content[:2], "png")
    alone = write(tmp_path / "alone", {f"{name}/{n}.{suffix}": content for name in "ab" for n in (1, 2)})
    among = write(
        tmp_path / "among",
        {f"a/1.{suffix}": content, f"a/2.{suffix}": content, "b/1.png": picture(7), "b/2.png": EVERY_KIND["ink"]},
    )

    for root in (alone, among):
        whole = sources.load(f"folder:{root}", "test", Path(), style=style, fit=fit)
        spec = input_spec(whole)

        assert isinstance(spec, ImageInput)
        assert (spec.style, spec.fit) == (style, fit)
        served = decode(content, spec, max_pixels=32_000_000, more_formats=("TIFF", "PPM"))
        assert whole.inputs[0].numpy().tobytes() == served


@pytest.mark.parametrize(
    ("kinds", "channels"),
    [
        (("1", "L", "LA", "I;16", "P of greys", "grey JPEG", "interlaced"), 1),
        (("L", "RGB"), 3),
        (("L", "P"), 3),
        (("I;16", "CMYK JPEG"), 3),
    ],
)
def test_pictures_that_are_all_grey_make_a_grey_input(tmp_path: Path, kinds: tuple[str, ...], channels: int) -> None:
    root = write(tmp_path, {f"{name}/{i}.png": EVERY_KIND[kind] for name in "ab" for i, kind in enumerate(kinds)})

    assert sources.load(f"folder:{root}", "train", Path()).inputs.shape[1] == channels


def test_pictures_turned_by_their_camera_have_the_size_that_they_are_seen_at(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {f"{name}/{n}.jpg": as_file(colour(40, 60), "JPEG", exif=oriented(n)) for name in "ab" for n in (5, 6, 7, 8)},
    )

    assert sources.load(f"folder:{root}", "train", Path()).inputs.shape[1:] == (3, 60, 40)


def test_ink_of_several_sizes_or_colours_becomes_grey_and_28_by_28(tmp_path: Path) -> None:
    files = {f"{name}/{n}.png": as_file(ink().resize((50 + n, 60)).convert("RGB")) for name in "ab" for n in range(3)}

    data = sources.load(f"folder:{write(tmp_path, files)}", "train", Path(), style="mnist")

    assert data.inputs.shape == (4, 1, 28, 28)
    assert (data.inputs[:, :, 0].max().item(), data.inputs.max().item()) == (0, 255)


@pytest.mark.parametrize(("name", "style"), [("digits", "mnist"), ("moons", "photo")])
def test_only_datasets_of_ink_are_served_as_ink(name: str, style: Style) -> None:
    assert sources.load(name, "test", Path(), style="mnist").style == style
