"""Decode uploaded bytes into a model's input. Knows nothing about HTTP or models beyond their input's description.

Two ways lead to the same pixels. A PNG that already has the model's size and colour takes the short one (libspng: 6
microseconds where torchvision takes 26 and Pillow 57); everything else goes through Pillow, which knows every format,
colour mode and orientation.
"""

from __future__ import annotations

import io
import struct

import imagecodecs
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from service.errors import BadRequest, TooLarge
from service.manifest import ImageInput

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")

_PNG_START = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
_PNG_END = b"IEND\xaeB`\x82"
_PNG_COLOUR = {"grey": 0, "rgb": 2}

_MNIST_INK_PIXELS = 20  # the longer side of the ink, in a 28 x 28 image
_INK_LEVEL = 0.25  # of the darkest stroke; below it is paper, noise or the soft edge of a stroke

Pixels = npt.NDArray[np.uint8]


def decode(data: bytes, spec: ImageInput, *, max_pixels: int) -> bytes:
    """One image as the model takes it: uint8 [C, H, W], row-major.

    Raises:
        BadRequest: `data` is no image, is cut off, or is of a format that is not taken.
        TooLarge: the header says that it has more than `max_pixels`.
    """
    if _has_input_form(data, spec):
        return _decode_short(data, spec)
    return prepare(_open(data, max_pixels), spec)


def is_quick(data: bytes, spec: ImageInput) -> bool:
    """Whether `decode` takes microseconds, so that a thread would cost more than it frees."""
    return len(data) <= 16_384 or _has_input_form(data, spec)


def prepare(image: Image.Image, spec: ImageInput) -> bytes:
    """A decoded picture of any size and mode as the model takes it: uint8 [C, H, W], row-major."""
    _, height, width = spec.shape
    flat = _flatten(image, "L" if spec.colour == "grey" else "RGB")
    if flat.size != (width, height):
        if spec.style == "mnist":
            return _redraw_as_mnist(np.asarray(flat), height, width).tobytes()
        flat = ImageOps.fit(flat, (width, height), Image.Resampling.BICUBIC)
    return _as_input(np.asarray(flat), spec)


def picture(data: bytes, spec: ImageInput) -> bytes:
    """A model's input, uint8 [C, H, W], as a PNG to look at."""
    pixels = np.frombuffer(data, np.uint8).reshape(spec.shape)
    shown = pixels[0] if spec.colour == "grey" else np.ascontiguousarray(pixels.transpose(1, 2, 0))
    return bytes(imagecodecs.png_encode(shown))


# Decoding


def _has_input_form(data: bytes, spec: ImageInput) -> bool:
    """Whether `data` is an 8-bit PNG of the model's size and colour, without what would change how it is shown."""
    if len(data) < 33 or not (data.startswith(_PNG_START) and data.endswith(_PNG_END)):
        return False
    width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
    return (
        (height, width) == spec.shape[1:]
        and depth == 8
        and colour == _PNG_COLOUR[spec.colour]
        and b"tRNS" not in data
        and b"eXIf" not in data
    )


def _decode_short(data: bytes, spec: ImageInput) -> bytes:
    try:
        pixels: Pixels = imagecodecs.spng_decode(data)  # uint8 [H, W] or [H, W, 3]
    except (imagecodecs.SpngError, ValueError) as error:
        raise BadRequest(f"the image must be a whole PNG. Given: {len(data)} bytes that do not decode") from error
    return _as_input(pixels, spec)


def _as_input(pixels: Pixels, spec: ImageInput) -> bytes:
    """Pixels of the model's size and colour, channels last, as its input; for MNIST, ink made light on dark."""
    if spec.style == "mnist" and _is_dark_on_light(pixels):
        pixels = _redraw_as_mnist(pixels, *spec.shape[1:])
    return (pixels if pixels.ndim == 2 else pixels.transpose(2, 0, 1)).tobytes()


def _open(data: bytes, max_pixels: int) -> Image.Image:
    """The picture in `data`, decoded, turned upright; its size is checked before a pixel is decoded."""
    if not data:
        raise BadRequest("the image must not be empty. Given: 0 bytes")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        width, height = image.size
        if width * height > max_pixels:
            raise TooLarge(f"the image must have at most {max_pixels:,} pixels. Given: {width} x {height}")
        image.load()
        upright = ImageOps.exif_transpose(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooLarge(f"the image must have at most {max_pixels:,} pixels. Given: {error}") from error
    except UnidentifiedImageError as error:
        raise BadRequest(
            f"the image must be one of {', '.join(FORMATS)}. Given: {len(data)} bytes that begin with {data[:8]!r}"
        ) from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, MemoryError) as error:
        raise BadRequest(f"the image must decode. Given: {error}") from error
    return upright


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


# Ink on paper, as MNIST shows it


def _is_dark_on_light(pixels: Pixels) -> bool:
    """Whether the border, which is paper, is lighter than the middle grey. pixels: uint8 [H, W]."""
    # Nearly every image of MNIST ends here, in 0.3 microseconds where the median takes 30.
    return pixels[0].tobytes().strip(b"\0") != b"" and _paper(pixels) > 127


def _paper(pixels: Pixels) -> float:
    border = np.concatenate((pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]))
    return float(np.median(border))


def _redraw_as_mnist(pixels: Pixels, height: int, width: int) -> Pixels:
    """Light ink on black, cropped, its longer side 20 of 28 pixels, its centre of mass in the middle.

    That is how MNIST was made from NIST's scans (LeCun et al., "Gradient-based learning applied to document
    recognition", 1998). pixels: uint8 [H, W] of any size; gives uint8 [height, width].
    """
    paper = _paper(pixels)
    ink = pixels.astype(np.float32) - paper
    if paper > 127:
        ink = -ink
    ink = ink.clip(0)
    darkest = float(ink.max())
    if darkest < 16:  # a blank sheet
        return np.zeros((height, width), np.uint8)
    ink /= darkest
    rows, columns = np.nonzero((ink > _INK_LEVEL).any(1))[0], np.nonzero((ink > _INK_LEVEL).any(0))[0]
    cropped = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = _MNIST_INK_PIXELS * min(height, width) / 28 / max(cropped.shape)
    size = (max(1, round(cropped.shape[1] * scale)), max(1, round(cropped.shape[0] * scale)))
    small = np.asarray(
        Image.fromarray(cropped).resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC)
    )
    small = (small / max(float(small.max()), 1e-6)).clip(0, 1)
    sheet = np.zeros((height, width), np.float32)
    mass = small.sum()
    middle_row = float((small.sum(1) * np.arange(size[1])).sum() / mass)
    middle_column = float((small.sum(0) * np.arange(size[0])).sum() / mass)
    top = int(np.clip(round((height - 1) / 2 - middle_row), 0, height - size[1]))
    left = int(np.clip(round((width - 1) / 2 - middle_column), 0, width - size[0]))
    sheet[top : top + size[1], left : left + size[0]] = small
    return (sheet * 255).round().astype(np.uint8)
