"""What a file costs is known from its structure, and what is not needed to show it is never read."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from service.contract.manifest import ImageInput
from service.images import decode as images
from service.images import exif, headers
from service.problems import BadRequest, TooLarge
from tests import pictures

RGB = ImageInput(shape=(3, 32, 32), colour="rgb")
MNIST = ImageInput(shape=(1, 28, 28), colour="grey", style="mnist")
MAX_PIXELS = 32_000_000

Pixels = npt.NDArray[np.uint8]


def noise(*shape: int) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def decode(data: bytes, spec: ImageInput = RGB) -> Pixels:
    return np.frombuffer(images.decode(data, spec, max_pixels=MAX_PIXELS), np.uint8).reshape(spec.shape)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, lines: bytes, *more: tuple[bytes, bytes]) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = (b"IHDR", header), *more, (b"IDAT", zlib.compress(lines)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, data) for kind, data in chunks)


def repeated_scan(side: int, times: int) -> bytes:
    """A progressive JPEG that repeats its last scan."""
    whole = pictures.encode(Image.new("RGB", (side, side)), "JPEG", progressive=True)
    at = whole.rfind(b"\xff\xda")
    return whole[:-2] + whole[at:-2] * times + whole[-2:]


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


JPEG = pictures.encode(Image.fromarray(noise(40, 60, 3)), "JPEG")
GIF = pictures.encode(Image.fromarray(noise(40, 60)), "GIF")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
@pytest.mark.parametrize("size", [(1, 1), (60, 40), (3, 700)])
def test_a_header_has_the_size_of_the_picture(kind: str, size: tuple[int, int]) -> None:
    header = headers.read(pictures.encode(Image.new("RGB", size), kind))

    assert (header.format, header.width, header.height) == (kind, *size)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
@pytest.mark.parametrize("size", [(16_385, 1), (1, 16_385), (16_000_000, 2)])
def test_a_long_thin_picture_is_refused(kind: str, size: tuple[int, int]) -> None:
    if kind == "PNG":
        data = png(*size, 1, 0, b"")
    elif max(size) < 60_000 and kind != "WEBP":
        data = pictures.encode(Image.new("L", size), kind)
    else:
        pytest.skip("the format has no such size")

    with pytest.raises(TooLarge, match=r"at most (16,384 pixels on each side|32,000,000 pixels)\. Given: "):
        decode(data)


@pytest.mark.parametrize("side", [64, 256, 4000])
def test_a_jpeg_that_repeats_its_scans_is_refused(side: int) -> None:
    with pytest.raises(TooLarge, match=r"at most 100 scans\. Given: 1[01]\d"):
        decode(repeated_scan(side, 101))


def test_a_jpeg_with_as_many_scans_as_encoders_write_is_decoded_and_not_at_once() -> None:
    data = repeated_scan(200, 10)

    assert images.decode_at_once(data, RGB, max_pixels=MAX_PIXELS) is None
    assert not decode(data).any()


def test_what_is_slow_to_decode_is_not_decoded_at_once() -> None:
    # Two pixels of 8 bits in run lengths, which Pillow decodes in Python.
    head = struct.pack("<IiiHHIIiiII", 40, 2, 1, 1, 8, 1, 4, 0, 0, 2, 0)
    body = bytes((9, 9, 9, 0, 200, 200, 200, 0)) + b"\2\1\0\1"
    data = b"BM" + struct.pack("<IHHI", 14 + len(head) + len(body), 0, 0, 14 + 40 + 8) + head + body

    assert images.decode_at_once(data, RGB, max_pixels=MAX_PIXELS) is None
    assert (decode(data) == 200).all()


METADATA = {
    "JPEG comments": JPEG[:2] + segment(0xFE, bytes(60_000)) * 20 + JPEG[2:],
    "JPEG with a broken profile": JPEG[:2] + segment(0xE2, b"ICC_PROFILE\0\xff\xff" + bytes(60_000)) * 20 + JPEG[2:],
    "JPEG whose resolution is text": JPEG[:2]
    + segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\1\0" + struct.pack("<HHI4s", 0x011A, 2, 4, b"abc\0") + bytes(4))
    + JPEG[2:],
    "JPEG with a second picture": JPEG + JPEG,
    "GIF comments": GIF[:781] + b"\x21\xfe" + (b"\xff" + bytes(255)) * 2000 + b"\0" + GIF[781:],
}


@pytest.mark.parametrize("data", METADATA.values(), ids=METADATA.keys())
def test_metadata_is_left_out(data: bytes) -> None:
    plain = GIF if data[:3] == b"GIF" else JPEG

    assert len(headers.read(data).data) <= len(plain)
    assert np.array_equal(decode(data), decode(plain))


def test_a_jpeg_of_many_segments_is_refused() -> None:
    with pytest.raises(TooLarge, match="at most 2,000 segments"):
        decode(JPEG[:2] + segment(0xFE, b"") * 2001 + JPEG[2:])


def test_a_gif_is_as_large_as_its_frame() -> None:
    data = bytearray(GIF)
    data[6:10] = struct.pack("<HH", 1, 1)  # the screen

    assert headers.read(bytes(data))[1:3] == (60, 40)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_frames_beyond_the_first_cost_nothing(kind: str) -> None:
    frames = [Image.fromarray(noise(40, 60, 3) // (n + 1)) for n in range(10)]
    one = pictures.encode(frames[0], kind, lossless=True)

    header = headers.read(pictures.encode(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True))

    assert (header.width, header.height) == (60, 40)
    if kind != "WEBP":  # its decoder steps over them
        assert len(header.data) < 1.2 * len(one)


def test_what_a_damaged_chunk_of_pixels_says_is_not_guessed() -> None:
    data = bytearray(pictures.encode(Image.fromarray(noise(40, 40))))
    data[60] ^= 1

    with pytest.raises(BadRequest, match="whose IDAT chunk is damaged"):
        decode(bytes(data))


def test_a_png_that_is_cut_off_after_its_pixels_is_whole() -> None:
    data = pictures.encode(Image.fromarray(noise(40, 40)))

    assert np.array_equal(decode(data[:-12]), decode(data))
    assert np.array_equal(decode(data[:-12] + chunk(b"tEXt", b"a\0b")[:-3]), decode(data))


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_a_level_of_grey_that_is_see_through_is_so_at_every_depth(depth: int) -> None:
    # A row of eight pixels: level 1 is see-through, level 0 is not.
    ones = {1: b"\xf0", 2: b"\x55\0", 4: b"\x11\x11\0\0", 8: b"\1" * 4 + bytes(4), 16: b"\0\1" * 4 + bytes(8)}[depth]

    decoded = decode(png(8, 1, depth, 0, b"\0" + ones, (b"tRNS", b"\0\1")), ImageInput(shape=(1, 1, 8), colour="grey"))

    assert decoded.ravel().tolist() == [255] * 4 + [0] * 4


def test_a_colour_of_sixteen_bits_that_is_see_through_is_so() -> None:
    line = struct.pack(">6H", 0x1234, 0, 0xFFFF, 0, 0, 0)

    decoded = decode(png(2, 1, 16, 2, b"\0" + line, (b"tRNS", line[:6])), ImageInput(shape=(3, 1, 2), colour="rgb"))

    assert decoded[:, 0].T.tolist() == [[255] * 3, [0] * 3]


# EXIF


def exif_block(order: str, orientation: int, kind: int = 3) -> bytes:
    mark = b"II*\0" if order == "<" else b"MM\0*"
    value = struct.pack(f"{order}{'H' if kind == 3 else 'I'}", orientation)
    return mark + struct.pack(f"{order}IHHHI", 8, 1, 0x0112, kind, 1) + value.ljust(4, b"\0") + bytes(4)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [3, 4])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_is_read(order: str, kind: int, orientation: int) -> None:
    block = exif_block(order, orientation, kind)

    assert exif.orientation(block) == exif.orientation(b"Exif\0\0" + block) == orientation


BROKEN = {
    "garbage": b"garbage!garbage!",
    "nothing": b"",
    "a mark alone": b"II*\0",
    "an offset beyond the end": b"II*\0" + struct.pack("<I", 2**31),
    "entries beyond the end": b"II*\0" + struct.pack("<IH", 8, 65_535),
    "no orientation there is": exif_block("<", 9),
    "an orientation that is text": exif_block("<", 6, 2),
}


@pytest.mark.parametrize("block", BROKEN.values(), ids=BROKEN.keys())
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_picture_with_a_broken_exif_block_is_shown_as_if_it_had_none(kind: str, block: bytes) -> None:
    picture = Image.fromarray(noise(28, 28))
    picture = picture if kind == "PNG" else picture.convert("RGB")
    options = {"exif": b"Exif\0\0" + block} if block else {}

    for spec in (RGB, MNIST):
        assert np.array_equal(
            decode(pictures.encode(picture, kind, **options), spec), decode(pictures.encode(picture, kind), spec)
        )


# Reduced JPEGs


def photo(width: int, height: int, **options: object) -> bytes:
    columns, rows = np.linspace(0, 255, width), np.linspace(0, 255, height)
    pixels = np.stack(np.broadcast_arrays(columns, rows[:, None], 128), axis=2).round().astype(np.uint8)
    return pictures.encode(Image.fromarray(pixels), "JPEG", quality=90, **options)


def test_of_a_jpeg_those_pixels_count_that_are_decoded_but_of_a_progressive_one_all() -> None:
    decoded = images.decode(photo(3000, 2200), RGB, max_pixels=2_000_000)

    pixels = np.frombuffer(decoded, np.uint8).reshape(RGB.shape).astype(int)
    assert abs(pixels - decode(photo(600, 440))).max() <= 6
    for data, most in ((photo(3000, 2200, progressive=True), 2_000_000), (photo(3000, 2200), 1_600_000)):
        with pytest.raises(TooLarge, match="Given: 3000 x 2200"):
            images.decode(data, RGB, max_pixels=most)


def test_a_reduced_jpeg_is_much_larger_than_the_input(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, int]] = []
    prepare = images.prepare

    def seen(image: Image.Image, spec: ImageInput) -> bytes:
        sizes.append(image.size)
        return prepare(image, spec)

    monkeypatch.setattr(images, "prepare", seen)
    large = ImageInput(shape=(3, 224, 224), colour="rgb")
    for data, spec in ((photo(1000, 900), RGB), (photo(3000, 2200), RGB), (photo(4000, 3600), large)):
        decode(data, spec)

    assert sizes == [(1000, 900), (750, 550), (2000, 1800)]


# Colours of TIFF and the like, which training takes


@pytest.mark.parametrize("make", [lambda: Image.new("F", (40, 40), 200.0), lambda: Image.new("I", (40, 40), 51_400)])
def test_other_formats_are_decoded_for_who_asks_for_them(make: Callable[[], Image.Image]) -> None:
    file = io.BytesIO()
    make().save(file, "TIFF")

    with pytest.raises(BadRequest, match="look like a TIFF image"):
        images.decode(file.getvalue(), RGB, max_pixels=MAX_PIXELS)
    decoded = images.decode(file.getvalue(), RGB, max_pixels=MAX_PIXELS, more_formats=("TIFF",))
    assert decoded == b"\xc8" * 3072
    with pytest.raises(TooLarge):
        images.decode(file.getvalue(), RGB, max_pixels=100, more_formats=("TIFF",))
