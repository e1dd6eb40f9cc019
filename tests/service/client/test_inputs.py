"""What a caller has becomes the file of the same picture, without a pixel changed."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from service.client import inputs
from service.client.inputs import encode, rows_of
from service.contract.manifest import ImageInput
from service.images.decode import decode
from tests import pictures

PNG = pictures.row_png(3)
RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (5, 7), np.uint8)
RGB = RNG.integers(0, 256, (5, 7, 3), np.uint8)


def decoded(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


def test_a_file_that_can_be_no_picture_is_not_read_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(inputs, "_MOST_FILE_BYTES", 1000)
    (tmp_path / "film").write_bytes(bytes(1001))
    (tmp_path / "picture").write_bytes(bytes(1000))

    assert len(encode(tmp_path / "picture")) == 1000
    for path in (tmp_path / "film", "/dev/zero"):
        with pytest.raises(OSError, match="more than 1,000 bytes, too many for a picture"):
            encode(path)


@pytest.mark.parametrize("given", [PNG, bytearray(PNG), memoryview(PNG), io.BytesIO(PNG)], ids=type)
def test_bytes_and_files_are_sent_as_they_are(given: Any) -> None:
    assert encode(given) == PNG


@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_is_read(tmp_path: Path, kind: type) -> None:
    (tmp_path / "x.png").write_bytes(PNG)

    assert encode(kind(tmp_path / "x.png")) == PNG


@pytest.mark.parametrize("pixels", [GREY, RGB, RGB[:, ::-1], GREY.T, RGB[:, :, :1]], ids=lambda a: str(a.shape))
def test_an_array_keeps_every_pixel(pixels: np.ndarray) -> None:
    assert (decoded(encode(pixels)) == pixels.squeeze()).all()


def test_a_tensor_is_channels_first() -> None:
    colour, grey, plain = torch.tensor(RGB).permute(2, 0, 1), torch.tensor(GREY)[None], torch.tensor(GREY)

    assert (decoded(encode(colour)) == RGB).all()
    assert (decoded(encode(grey)) == GREY).all()
    assert (decoded(encode(plain)) == GREY).all()


def test_an_array_of_the_models_size_is_the_png_that_the_service_takes_the_short_way() -> None:
    pixels = np.asarray(pictures.row(4))

    content = encode(pixels)

    assert content[:16] == pictures.row_png(4)[:16]
    assert content[16:29] == pictures.row_png(4)[16:29]  # the header: size, depth, colour, no interlacing


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr", "HSV"])
def test_a_picture_of_any_mode_is_sent(mode: str) -> None:
    picture = pictures.row(6).convert("RGB").convert("L" if mode == "LA" else mode if mode != "RGBA" else "RGB")
    picture = picture.convert(mode)

    content = encode(picture)

    assert (np.asarray(Image.open(io.BytesIO(content)).convert("L"))[6] > 200).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((5, 7)), r"an array must be uint8 \[H, W\] or \[H, W, 3\], and not empty. Given: float64 \[5, 7\]"),
        (np.zeros((3, 5, 7), np.uint8), r"Given: uint8 \[3, 5, 7\]"),
        (np.zeros((0, 7), np.uint8), r"Given: uint8 \[0, 7\]"),
        (torch.zeros(3, 5, 7), r"a tensor must be uint8 \[C, H, W\] .* Given: float32 \[3, 5, 7\]"),
        (torch.zeros(5, 7, 3, dtype=torch.uint8), r"Given: uint8 \[5, 7, 3\]"),
    ],
)
def test_an_array_of_another_shape_or_dtype_is_refused(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encode(given)


@pytest.mark.parametrize("given", [7, None, [1, 2], io.StringIO("text")], ids=["number", "none", "list", "text file"])
def test_what_can_be_no_image_is_refused(given: Any) -> None:
    with pytest.raises(TypeError, match=r"must be .*Given: "):
        encode(given)


@pytest.mark.parametrize(
    "given",
    [
        [[1, 2.5], [3, 4]],
        ((1, 2.5), (3, 4)),
        np.array([[1, 2.5], [3, 4]]),
        torch.tensor([[1, 2.5], [3, 4]]),
        [np.array([1, 2.5]), np.array([3, 4])],
    ],
    ids=lambda value: type(value).__name__,
)
def test_features_come_as_lists_arrays_or_tensors(given: Any) -> None:
    assert rows_of(given) == [[1, 2.5], [3, 4]]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_an_opened_picture_is_sent_as_upright_as_its_file(tmp_path: Path, kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "photo"
    shades = np.arange(32 * 48, dtype=np.uint16).reshape(32, 48) // 8
    path.write_bytes(pictures.encode(Image.fromarray(shades.astype(np.uint8)).convert("RGB"), kind, exif=exif))

    spec = ImageInput(shape=(3, 32, 32), colour="rgb")
    of_path, of_picture = (decode(encode(image), spec, max_pixels=10**6) for image in (path, Image.open(path)))

    assert of_path == of_picture


def test_an_opened_picture_whose_exif_is_malformed_is_sent(tmp_path: Path) -> None:
    path = tmp_path / "photo"
    path.write_bytes(pictures.encode(Image.new("RGB", (9, 9), (1, 2, 3)), "WEBP", lossless=True, exif=b"garbage!"))

    assert Image.open(io.BytesIO(encode(Image.open(path)))).getpixel((0, 0)) == (1, 2, 3)


@pytest.mark.parametrize("mode", ["PA", "La", "RGBa", "LA", "RGBA"])
def test_transparency_is_sent(mode: str) -> None:
    picture = Image.new("LA" if mode == "La" else "RGBA", (9, 9)).convert(mode)

    assert Image.open(io.BytesIO(encode(picture))).convert("RGBA").getextrema()[3] == (0, 0)  # type: ignore[misc] # four channels


def test_wide_greys_are_sent_as_sixteen_bits_and_not_cut() -> None:
    content = encode(Image.new("I", (9, 9), 51_400))

    assert decode(content, ImageInput(shape=(1, 9, 9), colour="grey"), max_pixels=100) == bytes([200]) * 81
