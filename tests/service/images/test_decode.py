"""Whatever picture comes in, the model's input comes out, or a refusal that says why."""

from __future__ import annotations

import random
import resource
import struct
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits

from service.contract.manifest import ImageInput
from service.images import decode as images
from service.images import mnist
from service.images.decode import is_blank
from service.problems import BadRequest, Problem, TooLarge
from tests import pictures

GREY = ImageInput(shape=(1, 28, 28), colour="grey")
RGB = ImageInput(shape=(3, 32, 32), colour="rgb")
MNIST = ImageInput(shape=(1, 28, 28), colour="grey", style="mnist")
MAX_PIXELS = 1_000_000
JPEG_TOLERANCE = 12

Pixels = npt.NDArray[np.uint8]
Colour = str | float | tuple[int, ...]


def noise(*shape: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def decode(data: bytes, spec: ImageInput, max_pixels: int = MAX_PIXELS) -> Pixels:
    """What the model gets, as [C, H, W]."""
    return np.frombuffer(images.decode(data, spec, max_pixels=max_pixels), np.uint8).reshape(spec.shape)


def solid(mode: str, colour: Colour, side: int = 32) -> Image.Image:
    return Image.new(mode, (side, side), colour)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_chunk(png: bytes, kind: bytes, data: bytes) -> bytes:
    """The PNG with another chunk right after its header."""
    return png[:33] + png_chunk(kind, data) + png[33:]


# The short way


@pytest.mark.parametrize("spec", [GREY, RGB], ids=["grey", "rgb"])
def test_a_png_of_the_models_size_gives_its_own_pixels(spec: ImageInput) -> None:
    channels, height, width = spec.shape
    for seed in range(60):
        pixels = noise(height, width, 3, seed=seed)[:, :, :channels].squeeze(2 if channels == 1 else ())
        png = pictures.encode(Image.fromarray(pixels), compress_level=seed % 10, optimize=seed % 7 == 0)

        decoded = decode(png, spec)

        assert images._is_plain_png(png, spec)
        assert np.array_equal(decoded, np.atleast_3d(pixels).transpose(2, 0, 1))


@pytest.mark.parametrize("spec", [GREY, RGB], ids=["grey", "rgb"])
@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (b"gAMA", struct.pack(">I", 100_000)),
        (b"gAMA", struct.pack(">I", 45_455)),
        (b"sRGB", b"\0"),
        (b"pHYs", struct.pack(">IIB", 2835, 2835, 1)),
        (b"tIME", struct.pack(">HBBBBB", 2024, 1, 1, 0, 0, 0)),
        (b"tEXt", b"Comment\0drawn by hand"),
        (b"zzZz", b"of nobody knows whom"),
    ],
    ids=["linear gamma", "gamma", "sRGB", "resolution", "time", "text", "unknown"],
)
@pytest.mark.parametrize("damage", [0, 1], ids=["whole", "damaged"])
def test_chunks_beside_the_pixels_change_nothing(spec: ImageInput, kind: bytes, data: bytes, damage: int) -> None:
    channels, height, width = spec.shape
    picture = Image.fromarray(noise(height, width, 3)).convert("L" if channels == 1 else "RGB")
    plain = pictures.encode(picture)
    png = bytearray(with_chunk(plain, kind, data))
    png[33 + 12 + len(data) - 1] ^= damage  # the last byte of its checksum

    assert np.array_equal(decode(bytes(png), spec), decode(plain, spec))
    assert np.array_equal(decode(bytes(png) + b"more", spec), decode(plain, spec))


def test_what_changes_how_a_png_is_shown_leaves_the_short_way() -> None:
    turned = Image.Exif()
    turned[0x0112] = 3
    pixels = noise(28, 28)
    upside_down = pictures.encode(Image.fromarray(pixels), exif=turned)
    see_through = pictures.encode(solid("L", 0, 28), transparency=0)

    assert np.array_equal(decode(upside_down, GREY)[0], pixels[::-1, ::-1])
    assert (decode(see_through, GREY) == 255).all()


@pytest.mark.parametrize("spec", [GREY, RGB], ids=["grey", "rgb"])
def test_an_interlaced_png_gives_the_same_pixels(spec: ImageInput) -> None:
    # Adam7 with every pixel written in the pass that it belongs to, filter 0; Pillow cannot write these.
    channels, height, width = spec.shape
    pixels = noise(height, width, channels)
    passes = ((0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2), (1, 2, 0, 1))
    lines = [b"\0" + line.tobytes() for top, down, left, right in passes for line in pixels[top::down, left::right]]
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 1)
    png = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header)
    png += png_chunk(b"IDAT", zlib.compress(b"".join(lines))) + png_chunk(b"IEND", b"")

    assert np.array_equal(decode(png, spec), pixels.transpose(2, 0, 1))


@pytest.mark.parametrize("between", [0, 1, 8])
def test_a_png_that_is_only_its_first_and_last_bytes_is_refused(between: int) -> None:
    data = images._png_start(GREY.shape, GREY.colour) + bytes(between) + b"IEND\xaeB`\x82"

    with pytest.raises(BadRequest):
        decode(data, GREY)


@pytest.mark.parametrize("position", [40, 60, -20])
def test_a_flipped_bit_in_the_pixels_of_a_png_is_refused(position: int) -> None:
    damaged = bytearray(pictures.encode(Image.fromarray(noise(28, 28))))
    damaged[position] ^= 1

    with pytest.raises(BadRequest, match="must"):
        decode(bytes(damaged), GREY)


# Cut off


def shapes(side: int) -> Image.Image:
    """A smooth colour picture, so that lossy formats keep it."""
    ramp = np.linspace(0, 255, side)
    return Image.fromarray(np.stack(np.broadcast_arrays(ramp, ramp[:, None], 128), axis=2).round().astype(np.uint8))


CUT = {
    "PNG of the model's size": (pictures.encode(Image.fromarray(noise(28, 28))), GREY),
    "colour PNG of the model's size": (pictures.encode(shapes(32)), RGB),
    "PNG of another size": (pictures.encode(shapes(20)), RGB),
    "palette PNG": (pictures.encode(shapes(32).convert("P")), RGB),
    "JPEG": (pictures.encode(shapes(32), "JPEG"), RGB),
    "progressive JPEG": (pictures.encode(shapes(32), "JPEG", progressive=True), RGB),
    "WebP": (pictures.encode(shapes(32), "WEBP"), RGB),
    "lossless WebP": (pictures.encode(shapes(32), "WEBP", lossless=True), RGB),
    "GIF": (pictures.encode(shapes(32), "GIF"), RGB),
    "BMP": (pictures.encode(shapes(16), "BMP"), RGB),
}


@pytest.mark.parametrize(("data", "spec"), CUT.values(), ids=CUT.keys())
def test_a_file_that_is_cut_off_anywhere_is_refused_or_has_all_its_pixels(data: bytes, spec: ImageInput) -> None:
    whole = decode(data, spec)
    refused = 0

    for length in range(len(data)):
        try:
            decoded = decode(data[:length], spec)
        except (BadRequest, TooLarge):
            refused += 1
        else:
            assert np.array_equal(decoded, whole), f"{length} of {len(data)} bytes gave other pixels"

    assert refused > len(data) * 0.75  # what follows the pixels may be missing


# Too large


def test_a_pixel_bomb_is_refused_by_its_header() -> None:
    data = pictures.bomb()

    with pytest.raises(TooLarge, match=r"at most 32,000,000 pixels\. Given: "):
        decode(data, GREY, max_pixels=32_000_000)


def test_the_size_is_refused_before_a_pixel_is_decoded() -> None:
    without_pixels = pictures.bomb(2000)[:33]

    with pytest.raises(TooLarge, match="Given: 2000 x 2000"):
        decode(without_pixels, GREY)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bomb_that_the_library_only_warns_of_is_refused_too() -> None:
    with pytest.raises(TooLarge, match="Given: 10000 x 10000"):
        decode(pictures.bomb(10_000), GREY, max_pixels=32_000_000)


def test_the_limit_itself_is_taken_and_one_pixel_more_is_not() -> None:
    data = pictures.encode(solid("L", 255, 100))

    assert (decode(data, GREY, max_pixels=10_000) == 255).all()
    with pytest.raises(TooLarge, match=r"at most 9,999 pixels\. Given: 100 x 100"):
        decode(data, GREY, max_pixels=9_999)


@pytest.mark.parametrize("side", [20, 28])
@pytest.mark.parametrize(
    ("kind", "head"), [(b"zTXt", b"Comment\0\0"), (b"iTXt", b"Comment\0\1\0\0\0"), (b"iCCP", b"profile\0\0")]
)
def test_text_that_would_inflate_to_gigabytes_is_not_inflated(side: int, kind: bytes, head: bytes) -> None:
    bomb = head + zlib.compress(bytes(100 * 2**20), 9)
    data = with_chunk(pictures.encode(Image.fromarray(noise(side, side))), kind, bomb)

    resource.setrlimit(resource.RLIMIT_AS, (_address_space() + 50 * 2**20, resource.RLIM_INFINITY))
    try:
        with pytest.raises(BadRequest, match="at most 4,194,304 bytes of text and profile"):
            decode(data, GREY)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


@pytest.mark.parametrize("side", [20, 28])
@pytest.mark.parametrize(
    ("kind", "head"), [(b"zTXt", b"Comment\0\0"), (b"iTXt", b"Comment\0\1\0\0\0"), (b"iCCP", b"profile\0\0")]
)
def test_text_of_an_ordinary_length_or_that_does_not_inflate_is_ignored(side: int, kind: bytes, head: bytes) -> None:
    plain = pictures.encode(Image.fromarray(noise(side, side)))

    for text in (zlib.compress(bytes(2**20)), b"damaged", b""):
        assert np.array_equal(decode(with_chunk(plain, kind, head + text), GREY), decode(plain, GREY))


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


# Not an image


@pytest.mark.parametrize("spec", [GREY, RGB, MNIST], ids=["grey", "rgb", "mnist"])
def test_an_empty_file_is_refused(spec: ImageInput) -> None:
    with pytest.raises(BadRequest, match=r"must not be empty\. Given: 0 bytes"):
        decode(b"", spec)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"hello", "that look like text"),
        (b"\x89PNG\x1a\rIHDR", "that look like a PNG whose line ends were changed.*--data-binary"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "that look like an SVG drawing"),
        (b"<?xml version='1.0'?><svg/>", "that look like an SVG drawing"),
        (b"<!DOCTYPE html><p>", "that look like an HTML page"),
        (b'{"image": ""}', "that look like JSON text; send it with the content type application/json"),
        (b"data:image/png;base64,iVBO", "that look like a data URL as text.*"),
        (b"%PDF-1.7", "that look like a PDF document"),
        (b"PK\x03\x04\x14\0\0\0", "that look like a ZIP archive.*"),
        (b"\0\0\0\x18ftypheic\0\0", "that look like an HEIC image"),
        (b"\0\0\0\x1cftypavif\0\0", "that look like an AVIF image"),
        (b"\0\0\0\x20ftypisom\0\0", "that look like a video"),
        (b"P5 1 1 255 a", "that look like a Netpbm image.*"),
        (b"RIFF\4\0\0\0WAVE", "that look like a WAV sound"),
        (bytes(100), "that are all zero"),
        (b"\x91\x92\x93", "of no format that is known"),
    ],
)
def test_what_is_no_image_is_refused_in_words(data: bytes, words: str) -> None:
    with pytest.raises(
        BadRequest, match=rf"must be one of PNG, JPEG, WebP, GIF, BMP\. Given: {len(data)} bytes {words}"
    ):
        decode(data, GREY)


def test_a_png_whose_header_is_damaged_is_called_so() -> None:
    damaged = bytearray(pictures.encode(Image.new("L", (40, 40))))
    damaged[29] ^= 1  # the header's checksum

    for read in (lambda data: decode(data, GREY), images.describe):
        with pytest.raises(BadRequest) as refusal:
            read(bytes(damaged))
        assert refusal.value.detail == "the image must decode. Given: a damaged PNG"


def test_an_image_of_a_format_that_is_not_taken_is_refused() -> None:
    with pytest.raises(BadRequest, match="that look like a TIFF image"):
        decode(pictures.encode(shapes(32), "TIFF"), RGB)


@given(st.binary(max_size=200))
def test_garbage_raises_nothing_but_a_problem(data: bytes) -> None:
    with pytest.raises(Problem):
        decode(data, GREY)


@given(
    which=st.sampled_from([data for data, _ in CUT.values()]),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8),
    spec=st.sampled_from([GREY, RGB, MNIST]),
)
def test_a_damaged_image_gives_an_input_or_a_problem(
    which: bytes, changes: list[tuple[float, int]], spec: ImageInput
) -> None:
    damaged = bytearray(which)
    for place, value in changes:
        damaged[int(place * len(damaged))] = value

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the library thinks of damaged metadata
        try:
            decoded = decode(bytes(damaged), spec)
        except (BadRequest, TooLarge):
            return

    assert decoded.shape == spec.shape


# Formats and colours


LOSSLESS = {"PNG": {}, "GIF": {}, "BMP": {}, "WEBP": {"lossless": True}}


@pytest.mark.parametrize("kind", LOSSLESS)
def test_a_lossless_format_gives_its_own_pixels(kind: str) -> None:
    pixels = noise(28, 28)
    if kind == "GIF":
        pixels //= 4

    decoded = decode(pictures.encode(Image.fromarray(pixels), kind, **LOSSLESS[kind]), GREY)

    assert np.array_equal(decoded[0], pixels)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_a_lossy_format_gives_nearly_its_own_pixels(kind: str) -> None:
    picture = shapes(32)

    decoded = decode(pictures.encode(picture, kind, quality=95), RGB)

    difference = decoded.astype(int) - np.asarray(picture).transpose(2, 0, 1)
    assert abs(difference).max() <= JPEG_TOLERANCE


COLOURS: dict[str, tuple[Callable[[], bytes], tuple[int, int, int]]] = {
    "palette": (
        lambda: pictures.encode(solid("RGB", (200, 40, 90)).convert("P", palette=Image.Palette.ADAPTIVE)),
        (200, 40, 90),
    ),
    "1-bit white": (lambda: pictures.encode(solid("1", 1)), (255, 255, 255)),
    "1-bit black BMP": (lambda: pictures.encode(solid("1", 0), "BMP"), (0, 0, 0)),
    "16-bit grey": (lambda: pictures.encode(Image.fromarray(np.full((32, 32), 257 * 200, np.uint16))), (200, 200, 200)),
    "CMYK JPEG": (lambda: pictures.encode(solid("CMYK", (0, 255, 255, 0)), "JPEG", quality=95), (255, 0, 0)),
    "opaque RGBA": (lambda: pictures.encode(solid("RGBA", (10, 20, 30, 255))), (10, 20, 30)),
    "see-through RGBA": (lambda: pictures.encode(solid("RGBA", (10, 20, 30, 0))), (255, 255, 255)),
    "half see-through RGBA": (lambda: pictures.encode(solid("RGBA", (0, 0, 0, 128))), (127, 127, 127)),
    "see-through grey": (lambda: pictures.encode(solid("LA", (0, 0))), (255, 255, 255)),
    "see-through palette": (lambda: pictures.encode(solid("P", 0), transparency=0), (255, 255, 255)),
    "see-through GIF": (lambda: pictures.encode(solid("P", 0), "GIF", transparency=0), (255, 255, 255)),
    "see-through WebP": (lambda: pictures.encode(solid("RGBA", (0, 0, 0, 0)), "WEBP", lossless=True), (255, 255, 255)),
}


@pytest.mark.parametrize(("make", "expected"), COLOURS.values(), ids=COLOURS.keys())
def test_every_colour_mode_comes_out_as_it_is_seen(make: Callable[[], bytes], expected: tuple[int, int, int]) -> None:
    decoded = decode(make(), RGB)

    assert decoded.reshape(3, -1).max(axis=1) == pytest.approx(expected, abs=2)
    assert decoded.reshape(3, -1).min(axis=1) == pytest.approx(expected, abs=2)


def test_sixteen_bits_are_scaled_to_eight_and_not_cut() -> None:
    wide = np.linspace(0, 65535, 28 * 28).round().astype(np.uint16).reshape(28, 28)

    decoded = decode(pictures.encode(Image.fromarray(wide)), GREY)

    assert np.array_equal(decoded[0], (wide / 257).round())


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_picture_is_turned_upright(kind: str, orientation: int) -> None:
    upright = np.zeros((32, 32, 3), np.uint8)
    upright[:16, :16] = 250  # the top left corner alone
    upright[:16, 16:] = 120
    undo = {1: 0, 2: "lr", 3: "180", 4: "tb", 5: "t", 6: "ccw", 7: "tt", 8: "cw"}[orientation]
    stored = {
        0: lambda a: a,
        "lr": np.fliplr,
        "180": lambda a: np.rot90(a, 2),
        "tb": np.flipud,
        "t": lambda a: a.transpose(1, 0, 2),
        "ccw": lambda a: np.rot90(a, 1),
        "tt": lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        "cw": lambda a: np.rot90(a, -1),
    }[undo](upright)
    exif = Image.Exif()
    exif[0x0112] = orientation

    decoded = decode(pictures.encode(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif, quality=95), RGB)

    assert abs(decoded.astype(int) - upright.transpose(2, 0, 1)).max() <= JPEG_TOLERANCE


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_taken(kind: str) -> None:
    first, second = solid("RGB", (255, 255, 255)), solid("RGB", (0, 0, 0))

    data = pictures.encode(first, kind, save_all=True, append_images=[second], duration=100)

    assert (decode(data, RGB) == 255).all()


def test_a_grey_picture_becomes_three_equal_channels_and_colour_becomes_its_brightness() -> None:
    grey = pictures.encode(Image.fromarray(noise(32, 32)))
    red = pictures.encode(solid("RGB", (255, 0, 0), 28))

    assert np.array_equal(decode(grey, RGB), np.stack([noise(32, 32)] * 3))
    assert (decode(red, GREY) == 76).all()


@pytest.mark.parametrize("size", [(64, 64), (100, 32), (7, 300), (1, 1), (2000, 3)])
def test_a_picture_of_another_size_is_cut_to_the_middle_and_resized_unless_the_manifest_says_otherwise(
    size: tuple[int, int],
) -> None:
    width, height = size
    picture = Image.new("RGB", size, (10, 200, 90))
    if width > 2 * height:
        picture.paste((0, 0, 0), (0, 0, 2, height))  # an edge that the cut takes away

    decoded = decode(pictures.encode(picture), RGB)

    assert (decoded.reshape(3, -1).T == (10, 200, 90)).all()


@pytest.mark.parametrize("spec", [GREY, RGB], ids=["grey", "rgb"])
def test_an_input_shown_as_a_picture_is_that_input_again(spec: ImageInput) -> None:
    data = noise(*spec.shape).tobytes()

    assert decode(images.picture(data, spec), spec).tobytes() == data


def test_rows_and_columns_keep_their_places() -> None:
    wide = ImageInput(shape=(3, 8, 24), colour="rgb")
    pixels = noise(8, 24, 3)

    decoded = decode(pictures.encode(Image.fromarray(pixels)), wide)

    assert np.array_equal(decoded, pixels.transpose(2, 0, 1))


def test_few_pixels_are_decoded_at_once_and_many_are_not_however_small_the_file() -> None:
    many = pictures.encode(Image.new("L", (1000, 1000)), compress_level=9)
    fits = ImageInput(shape=(1, 1000, 1000), colour="grey")

    assert len(many) < 16_384
    for data, spec in ((pictures.row_png(1), RGB), (many, fits)):
        assert images.decode_at_once(data, spec, max_pixels=10**6) == images.decode(data, spec, max_pixels=10**6)
    assert images.decode_at_once(many, RGB, max_pixels=10**6) is None


def test_what_the_header_tells_is_refused_before_a_process_is_bothered() -> None:
    with pytest.raises(TooLarge):
        images.decode_at_once(pictures.bomb(2_000), RGB, max_pixels=10**6)
    with pytest.raises(BadRequest):
        images.decode_at_once(b"no image", RGB, max_pixels=10**6)


# Ink on paper


DIGITS = load_digits().images


def stroke(digit: int, side: int) -> Image.Image:
    """A digit of scikit-learn's, light on black, to its edges."""
    ink = Image.fromarray((DIGITS[digit] * 15.9).astype(np.uint8))
    return ink.resize((side, side), Image.Resampling.BICUBIC)


def mnist_like(digit: int = 0) -> Pixels:
    """A digit as MNIST would have it: light on black, 20 pixels high, in the middle."""
    sheet = np.zeros((28, 28), np.uint8)
    sheet[4:24, 4:24] = np.asarray(stroke(digit, 20))
    return sheet


@dataclass(frozen=True)
class Drawing:
    """How a digit of scikit-learn's is drawn on a large sheet: `side` pixels high, its corner `at` x and y."""

    size: tuple[int, int] = (200, 200)
    at: tuple[int, int] = (50, 50)
    side: int = 100
    ink: Colour = "black"
    paper: Colour = "white"

    def of(self, digit: int) -> Image.Image:
        sheet = Image.new("RGB", self.size, self.paper)
        sheet.paste(self.ink, self.at, stroke(digit, self.side))
        return sheet


def centre_of_mass(pixels: Pixels) -> tuple[float, float]:
    mass = pixels.astype(float)
    rows, columns = np.indices(pixels.shape)
    return float((rows * mass).sum() / mass.sum()), float((columns * mass).sum() / mass.sum())


def likeness(first: Pixels, second: Pixels) -> float:
    """The correlation of two images."""
    return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])


@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP"])
def test_an_image_of_mnist_passes_bit_for_bit(kind: str) -> None:
    for digit in range(10):
        pixels = mnist_like(digit)

        decoded = decode(pictures.encode(Image.fromarray(pixels), kind, **LOSSLESS[kind]), MNIST)

        assert np.array_equal(decoded[0], pixels)


def test_ink_that_touches_the_top_edge_of_an_image_of_mnist_passes_bit_for_bit() -> None:
    pixels = mnist_like()
    pixels[0, 10:18] = 255

    assert np.array_equal(decode(pictures.encode(Image.fromarray(pixels)), MNIST)[0], pixels)


@pytest.mark.parametrize("kind", ["PNG", "BMP"])
def test_dark_on_light_is_inverted_by_both_ways(kind: str) -> None:
    for digit in range(10):
        pixels = mnist_like(digit)

        decoded = decode(pictures.encode(Image.fromarray(255 - pixels), kind), MNIST)

        assert np.median(decoded[0]) == 0
        assert (
            likeness(
                decoded[0],
                decode(
                    pictures.encode(Drawing(ink="white", paper="black").of(digit)),
                    MNIST,
                )[0],
            )
            > 0.9
        )


SHEETS = {
    "large, black on white": Drawing((400, 400), at=(100, 100), side=200),
    "in a corner": Drawing((600, 400), at=(10, 250), side=120),
    "on coloured paper": Drawing((300, 500), at=(60, 300), side=150, ink="navy", paper="khaki"),
    "chalk on a board": Drawing((280, 280), at=(40, 90), side=140, ink="white", paper="darkgreen"),
    "pale pencil": Drawing((280, 280), at=(80, 80), side=120, ink=(150, 150, 150), paper=(230, 230, 230)),
    "smaller than the model's": Drawing((20, 20), at=(3, 5), side=12),
}


@pytest.mark.parametrize("sheet", SHEETS.values(), ids=SHEETS.keys())
@pytest.mark.parametrize("digit", range(10))
def test_a_drawing_becomes_light_on_dark_and_centred_by_mass(sheet: Drawing, digit: int) -> None:
    plain = Drawing(ink="white", paper="black").of(digit)

    decoded = decode(pictures.encode(sheet.of(digit)), MNIST)[0]

    rows, columns = np.nonzero(decoded > 64)
    assert decoded[0].max() == decoded[-1].max() == decoded[:, 0].max() == decoded[:, -1].max() == 0
    assert decoded.max() == 255
    assert max(np.ptp(rows), np.ptp(columns)) + 1 in (19, 20)
    assert centre_of_mass(decoded) == pytest.approx((13.5, 13.5), abs=0.6)
    assert likeness(decoded, decode(pictures.encode(plain), MNIST)[0]) > 0.9


def test_speckles_on_the_paper_do_not_move_the_ink() -> None:
    clean = Drawing((300, 300), at=(100, 60), side=150).of(3)
    grains = np.random.default_rng(0).integers(0, 30, (300, 300, 1))
    grainy = Image.fromarray(np.clip(np.asarray(clean).astype(int) - grains, 0, 255).astype(np.uint8))

    decoded = decode(pictures.encode(grainy), MNIST)[0]

    assert likeness(decoded, decode(pictures.encode(clean), MNIST)[0]) > 0.9


@pytest.mark.parametrize("size", [28, 200])
@pytest.mark.parametrize("shade", [0, 100, 255])
def test_a_blank_sheet_is_black(size: int, shade: int) -> None:
    decoded = decode(pictures.encode(solid("L", shade, size)), MNIST)

    assert decoded.max() == 0


@pytest.mark.parametrize("shape", [(1, 300), (300, 1), (1, 1), (2, 2), (3, 900)])
def test_a_line_or_a_dot_is_drawn_without_falling_off_the_sheet(shape: tuple[int, int]) -> None:
    sheet = np.full((shape[0] + 40, shape[1] + 40), 255, np.uint8)
    sheet[20:-20, 20:-20] = 0

    decoded = decode(pictures.encode(Image.fromarray(sheet)), MNIST)[0]

    assert decoded.max() == 255
    assert centre_of_mass(decoded) == pytest.approx((13.5, 13.5), abs=0.6)


def test_random_drawings_never_fail() -> None:
    chance = random.Random(0)
    for seed in range(200):
        shape = chance.randint(1, 60), chance.randint(1, 60)
        pixels = noise(*shape, seed=seed) if seed % 2 else np.where(noise(*shape, seed=seed) > 250, 0, 255)

        decoded = decode(pictures.encode(Image.fromarray(pixels.astype(np.uint8))), MNIST)

        assert decoded.shape == (1, 28, 28)


def test_signs_side_by_side_are_each_what_they_would_be_alone() -> None:
    spec = ImageInput(shape=(1, 28, 28), colour="grey", style="mnist")
    one, two = np.full((60, 40), 255, np.uint8), np.full((60, 40), 255, np.uint8)
    one[10:50, 15:25] = 0
    two[15:45, 8:14] = two[40:45, 8:34] = 0

    def signs(pixels: npt.NDArray[np.uint8]) -> bytes:
        return images.decode_signs(pictures.encode(Image.fromarray(pixels)), spec, max_pixels=10_000)

    assert signs(np.hstack((one, two))) == signs(one) + signs(two)
    assert signs(one) == decode(pictures.encode(Image.fromarray(one)), spec).tobytes()


def test_a_picture_of_the_models_own_size_holds_one_sign() -> None:
    spec = ImageInput(shape=(1, 28, 28), colour="grey", style="mnist")
    pixels = np.zeros((28, 28), np.uint8)
    pixels[5:23, 4:9] = pixels[5:23, 19:24] = 255
    png, webp = (pictures.encode(Image.fromarray(pixels), kind) for kind in ("PNG", "WebP"))

    assert images.decode_signs(png, spec, max_pixels=10_000) == pixels.tobytes()
    assert len(images.decode_signs(webp, spec, max_pixels=10_000)) == 784


def test_a_picture_is_prepared_like_the_file_that_holds_it() -> None:
    picture = Drawing((90, 120), at=(20, 20), side=60).of(5)

    assert images.prepare(picture, MNIST) == images.decode(pictures.encode(picture), MNIST, max_pixels=MAX_PIXELS)


def test_an_input_is_blank_whichever_way_it_is_found_out() -> None:
    for spec in (RGB, GREY, MNIST):
        size = spec.shape[0] * spec.shape[1] * spec.shape[2]
        assert is_blank(bytes(size), spec)
        assert is_blank(b"\xff" * size, spec)
        assert not is_blank(bytes(size - 1) + b"\xff", spec)  # one bright pixel, which a sample may miss
        assert not is_blank(b"\x40" + b"\x60" * (size - 1), spec)
        assert is_blank(b"\x50" + b"\x5f" * (size - 1), spec)


def test_only_a_picture_without_ink_or_colours_is_blank() -> None:
    for shade in (0, 100, 255):
        sheet = pictures.encode(
            Image.fromarray(np.clip(noise(60, 60).astype(int) // 20 + shade, 0, 255).astype(np.uint8))
        )
        for spec in (RGB, GREY, MNIST):
            assert mnist.is_blank(decode(sheet, spec))
    assert mnist.is_blank(decode(pictures.encode(solid("RGB", (200, 10, 90))), RGB))
    assert not mnist.is_blank(mnist_like()[None])
    assert not mnist.is_blank(decode(pictures.encode(shapes(32)), RGB))


SIX = Image.fromarray(
    np.repeat(np.array([[0, 50, 100, 150, 200, 250]], np.uint8), 2, axis=0).repeat(20, 0).repeat(20, 1)
)


def test_a_picture_that_is_stretched_loses_no_side() -> None:
    decoded = decode(pictures.encode(SIX), ImageInput(shape=(1, 30, 30), colour="grey", fit="stretch"))[0]

    assert (decoded == decoded[0]).all()
    assert (decoded[0, 0], decoded[0, -1]) == (0, 250)


def test_a_picture_in_a_letterbox_loses_no_side_and_keeps_its_proportions() -> None:
    decoded = decode(pictures.encode(SIX), ImageInput(shape=(1, 30, 30), colour="grey", fit="letterbox"))[0]

    assert (decoded[:10] == 128).all()
    assert (decoded[20:] == 128).all()
    assert (decoded[10:20, 0] == 0).all()
    assert (decoded[10:20, -1] == 250).all()


@pytest.mark.parametrize("fit", ["crop", "letterbox", "stretch"])
@pytest.mark.parametrize("size", [(1, 900), (900, 1), (1, 1), (32, 32), (33, 31)])
def test_every_fit_takes_every_size(fit: str, size: tuple[int, int]) -> None:
    spec = RGB.model_copy(update={"fit": fit})

    decoded = decode(pictures.encode(Image.new("RGB", size, (128, 128, 128))), spec)

    assert (decoded == 128).all()
