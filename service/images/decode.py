"""Decode uploaded bytes into a model's input. Knows nothing about HTTP or models beyond their input's description.

Two ways lead to the same pixels. A PNG that already has the model's size and colour takes the short one (libspng: 6
microseconds where torchvision takes 26 and Pillow 57); everything else goes through Pillow, which knows every format,
colour mode and orientation.
"""

from __future__ import annotations

import contextlib
import io
import struct
from collections.abc import Iterator
from functools import lru_cache

import imagecodecs
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from service.contract.manifest import ImageInput
from service.images import mnist
from service.problems import BadRequest, TooLarge

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")

_PNG_END = b"IEND\xaeB`\x82"
_PNG_COLOUR = {"grey": 0, "rgb": 2}

_QUICK_PIXELS = 65_536

Pixels = npt.NDArray[np.uint8]


def decode(data: bytes, spec: ImageInput, *, max_pixels: int) -> bytes:
    """One image as the model takes it: uint8 [C, H, W], row-major.

    Raises:
        BadRequest: `data` is no image, is cut off, or is of a format that is not taken.
        TooLarge: the header says that it has more than `max_pixels`.
    """
    short = _decode_short(data, spec)
    if short is not None:
        return short
    with _problems(data, max_pixels):
        image = _upright(_open(data, max_pixels))
    return prepare(image, spec)


def decode_at_once(data: bytes, spec: ImageInput, *, max_pixels: int) -> bytes | None:
    """The same, or None if it would take more than a millisecond, so that a thread frees more than it costs.

    Raises:
        BadRequest, TooLarge: as `decode`.
    """
    short = _decode_short(data, spec)
    if short is not None:
        return short
    with _problems(data, max_pixels):
        image = _open(data, max_pixels)
        if image.width * image.height > _QUICK_PIXELS:
            return None
        image = _upright(image)
    return prepare(image, spec)


def prepare(image: Image.Image, spec: ImageInput) -> bytes:
    """A decoded picture of any size and mode as the model takes it: uint8 [C, H, W], row-major."""
    _, height, width = spec.shape
    flat = _flatten(image, "L" if spec.colour == "grey" else "RGB")
    if flat.size != (width, height):
        if spec.style == "mnist":
            return mnist.redraw_as_mnist(np.asarray(flat), height, width).tobytes()
        flat = ImageOps.fit(flat, (width, height), Image.Resampling.BICUBIC)
    return _as_input(np.asarray(flat), spec)


def picture(data: bytes, spec: ImageInput) -> bytes:
    """A model's input, uint8 [C, H, W], as a PNG to look at."""
    pixels = np.frombuffer(data, np.uint8).reshape(spec.shape)
    shown = pixels[0] if spec.colour == "grey" else np.ascontiguousarray(pixels.transpose(1, 2, 0))
    return bytes(imagecodecs.png_encode(shown))


# Decoding


def _decode_short(data: bytes, spec: ImageInput) -> bytes | None:
    """The input if `data` is an 8-bit PNG of the model's size and colour, without what would change how it is shown."""
    if not data.startswith(_png_start(spec.shape, spec.colour)) or not data.endswith(_PNG_END):
        return None
    if b"tRNS" in data or b"eXIf" in data:
        return None
    try:
        pixels: Pixels = imagecodecs.spng_decode(data)  # uint8 [H, W] or [H, W, 3]
    except (imagecodecs.SpngError, ValueError) as error:
        raise BadRequest(f"the image must be a whole PNG. Given: {len(data)} bytes that do not decode") from error
    return _as_input(pixels, spec)


@lru_cache
def _png_start(shape: tuple[int, int, int], colour: str) -> bytes:
    """How a PNG file of such an image begins: with its size, eight bits and its colour."""
    _, height, width = shape
    return b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">IIBB", width, height, 8, _PNG_COLOUR[colour])


def _as_input(pixels: Pixels, spec: ImageInput) -> bytes:
    """Pixels of the model's size and colour, channels last, as its input; for MNIST, ink made light on dark."""
    if spec.style == "mnist" and mnist.is_dark_on_light(pixels):
        pixels = mnist.redraw_as_mnist(pixels, *spec.shape[1:])
    return (pixels if pixels.ndim == 2 else pixels.transpose(2, 0, 1)).tobytes()


def _open(data: bytes, max_pixels: int) -> Image.Image:
    """The picture in `data` as far as its header tells; no pixel is decoded."""
    if not data:
        raise BadRequest("the image must not be empty. Given: 0 bytes")
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    width, height = image.size
    if width * height > max_pixels:
        raise TooLarge(f"the image must have at most {max_pixels:,} pixels. Given: {width} x {height}")
    return image


def _upright(image: Image.Image) -> Image.Image:
    """The picture, decoded and turned as its camera was held."""
    image.load()
    return ImageOps.exif_transpose(image)


@contextlib.contextmanager
def _problems(data: bytes, max_pixels: int) -> Iterator[None]:
    """Say what Pillow raises, which is of many kinds, as what is wrong with the image."""
    try:
        yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooLarge(f"the image must have at most {max_pixels:,} pixels. Given: {error}") from error
    except UnidentifiedImageError as error:
        raise BadRequest(
            f"the image must be one of {', '.join(FORMATS)}. Given: {len(data)} bytes that begin with {data[:8]!r}"
        ) from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, MemoryError) as error:
        raise BadRequest(f"the image must decode. Given: {error}") from error


def _flatten(image: Image.Image, mode: str) -> Image.Image:
    """The picture as 8-bit `mode` ('L' or 'RGB'), transparency over white."""
    if image.mode.startswith("I") or image.mode == "F":
        image = _to_eight_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image if image.mode == mode else image.convert(mode)


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """A 16-bit or wider grey picture, scaled from 16 bits to 8."""
    values = np.asarray(image).astype(np.float64)
    return Image.fromarray((values / 257).clip(0, 255).round().astype(np.uint8))
