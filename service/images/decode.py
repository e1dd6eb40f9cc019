"""Decode a picture's file into a model's input. Knows nothing about HTTP or models beyond their input's description.

Training and serving both call `decode`, so that a model is asked what it was taught. A PNG that already has the model's
size and colour is decoded by Rust's png crate (5 microseconds, where libspng takes 8 and Pillow 57); all others go
through Pillow, after `headers` has checked their structure and left out what is not needed to show them.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from functools import lru_cache
from typing import Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from kornia_rs.io import decode_image_png_u8
from PIL import Image, UnidentifiedImageError

from service.contract.manifest import ImageInput
from service.images import formats, headers, mnist, sheets, split
from service.images.fitting import fit
from service.images.flattening import flatten, is_grey
from service.images.formats import recognise
from service.images.headers import MAX_SIDE, Header
from service.problems import BadRequest, Problem, TooLarge

_PNG_START: Final = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
_PNG_COLOUR: Final = {"grey": 0, "rgb": 2}
_PNG_FRAME_BYTES: Final = 57  # of a PNG with one chunk of pixels, beside these: signature, IHDR, IDAT's frame, IEND

_QUICK_PIXELS = {"photo": 65_536, "mnist": 16_384}
"""Of a picture that is decoded at once. To take the lines off a sheet of 256 x 256 takes 20 ms, off 128 x 128 5."""
_QUICK_BYTES = 65_536  # of a file whose structure is read at once: 5,000 chunks, 4 ms

_REDUCED_JPEG = 4
"""A baseline JPEG may have this many times the pixels that are allowed, if it is decoded at a reduced size."""
_LEAST_SIDE = 512  # of a JPEG that is decoded at a reduced size, and 8 times that of the model's input

_EVERY = 37  # pixel that is looked at first, to see that a picture is not blank

Pixels: TypeAlias = npt.NDArray[np.uint8]


class Description(NamedTuple):
    """A picture that is not decoded yet."""

    width: int
    height: int
    grey: bool


def decode(data: bytes, spec: ImageInput, *, max_pixels: int, more_formats: tuple[str, ...] = ()) -> bytes:
    """Return one picture as the model takes it: uint8 [C, H, W], row-major.

    `more_formats` are names of Pillow's that are taken besides those of the service. Nothing in them is limited but
    their size: they are for files of the user's own.

    Raises:
        BadRequest: `data` is no image, is cut off, or is of a format that is not taken.
        TooLarge: it has more than `max_pixels` pixels, or more than `headers.MAX_SIDE` on a side.
    """
    if _is_plain_png(data, spec):
        return _decode_png(data, spec)
    if more_formats and not recognise(data):
        return _decode_any(data, spec, max_pixels, more_formats)
    header = headers.read(data)
    _expect_few_pixels(header, spec, max_pixels)
    return _decode(header, spec, prepare)


def decode_signs(data: bytes, spec: ImageInput, *, max_pixels: int) -> bytes:
    """Return the signs that stand side by side in a picture, from left to right, back to back; at least one.

    A picture of the model's own size holds one.

    Raises:
        BadRequest, TooLarge: as `decode`.
    """
    if _is_plain_png(data, spec):
        return _decode_png(data, spec)
    header = headers.read(data)
    _expect_few_pixels(header, spec, max_pixels)
    return _decode(header, spec, _prepare_signs)


def decode_at_once(data: bytes, spec: ImageInput, *, max_pixels: int) -> bytes | None:
    """Do the same, or return None if it could take more than a few milliseconds.

    Raises:
        BadRequest, TooLarge: as `decode`.
    """
    if _is_plain_png(data, spec):
        return _decode_png(data, spec)
    if len(data) > _QUICK_BYTES:
        return None
    header = headers.read(data)
    _expect_few_pixels(header, spec, max_pixels)
    if header.slow or header.pixels * header.scans > _QUICK_PIXELS[spec.style]:
        return None
    return _decode(header, spec, prepare)


def prepare(image: Image.Image, spec: ImageInput) -> bytes:
    """Return a decoded, upright picture of any size and mode as the model takes it: uint8 [C, H, W], row-major."""
    _, height, width = spec.shape
    flat = flatten(image, "L" if spec.colour == "grey" else "RGB")
    if spec.style == "mnist" and flat.size != (width, height):
        return mnist.redraw_as_mnist(np.asarray(mnist.shrink(flat)), height, width).tobytes()
    return _as_input(np.asarray(fit(flat, (width, height), spec.fit)), spec)


def _prepare_signs(image: Image.Image, spec: ImageInput) -> bytes:
    _, height, width = spec.shape
    flat = flatten(image, "L")
    if flat.size == (width, height):
        return prepare(image, spec)
    signs = split.separate(sheets.ink_of(np.asarray(mnist.shrink(flat))))
    return b"".join(mnist.redraw_ink(ink, height, width).tobytes() for ink in signs)


def describe(data: bytes, more_formats: tuple[str, ...] = ()) -> Description:
    """Return what a picture's header says of it, upright.

    Raises:
        BadRequest, TooLarge: as `decode`.
    """
    header = None if more_formats and not recognise(data) else headers.read(data)
    try:
        content, taken = (data, more_formats) if header is None else (header.data, (header.format,))
        image = Image.open(io.BytesIO(content), formats=taken)
        on_side = header is not None and header.orientation >= 5
        width, height = image.size[::-1] if on_side else image.size
        return Description(width, height, is_grey(image))
    except UnidentifiedImageError as error:
        raise _unidentified(data, more_formats) from error
    except Exception as error:
        raise BadRequest(f"the image must decode. Given: {error}") from error


def is_blank(data: bytes, spec: ImageInput) -> bool:
    """Return whether there is nothing to see in a model's input, uint8 [C, H, W]: no ink, or one colour."""
    # Most inputs are found not to be blank by this in 0.3 us, or 1.5 us for a photo; numpy's extremes take 10.
    if spec.style == "mnist" and 0 in data and (255 in data or 254 in data):
        return False
    few = data[: spec.shape[1] * spec.shape[2] : _EVERY]
    if max(few) - min(few) >= mnist.LEAST_CONTRAST:
        return False
    return mnist.is_blank(np.frombuffer(data, np.uint8).reshape(spec.shape))


def picture(data: bytes, spec: ImageInput) -> bytes:
    """Return a model's input, uint8 [C, H, W], as a PNG to look at."""
    pixels = np.frombuffer(data, np.uint8).reshape(spec.shape)
    file = io.BytesIO()
    Image.fromarray(pixels[0] if spec.colour == "grey" else pixels.transpose(1, 2, 0)).save(file, "PNG")
    return file.getvalue()


# A PNG of the model's size and colour


def _is_plain_png(data: bytes, spec: ImageInput) -> bool:
    """Return whether `data` is an 8-bit PNG of the model's size and colour that holds nothing but one chunk of pixels.

    Whatever has other chunks, such as text and profiles of any size, goes through `headers`.
    """
    return (
        data.startswith(_png_start(spec.shape, spec.colour))
        and data.startswith(b"IDAT", 37)
        and (data[33] << 24) + (data[34] << 16) + (data[35] << 8) + data[36] + _PNG_FRAME_BYTES == len(data)
    )


@lru_cache
def _png_start(shape: tuple[int, int, int], colour: str) -> bytes:
    """Return how a PNG file of such an image begins: with its size, eight bits, its colour and rows in their order."""
    _, height, width = shape
    return _PNG_START + struct.pack(">IIBBBBB", width, height, 8, _PNG_COLOUR[colour], 0, 0, 0)


def _decode_png(data: bytes, spec: ImageInput) -> bytes:
    _, height, width = spec.shape
    mode = "mono" if spec.colour == "grey" else "rgb"
    try:
        pixels: Pixels = decode_image_png_u8(data, (height, width), mode)  # uint8 [H, W, C]
    except Exception as error:  # its errors have no class of their own
        raise BadRequest(f"the image must be a whole PNG. Given: {len(data)} bytes that do not decode") from error
    return _as_input(pixels, spec)


def _as_input(pixels: Pixels, spec: ImageInput) -> bytes:
    """Return pixels of the model's size and colour, channels last, as its input; ink that is no MNIST is redrawn.

    pixels: uint8 [H, W] or [H, W, C].
    """
    if spec.colour == "rgb":
        return pixels.transpose(2, 0, 1).tobytes()
    drawn = pixels.tobytes()
    _, height, width = spec.shape
    if spec.style == "mnist" and not mnist.is_mnist(drawn, width):
        return mnist.redraw_as_mnist(pixels.reshape(height, width), height, width).tobytes()
    return drawn


# All others


def _decode(header: Header, spec: ImageInput, prepared: Callable[[Image.Image, ImageInput], bytes]) -> bytes:
    if header.orientation == 1 and _is_plain_png(header.data, spec):
        return _decode_png(header.data, spec)
    try:
        image = Image.open(io.BytesIO(header.data), formats=(header.format,))
        if image.width * image.height > header.pixels:
            raise BadRequest(f"the image must be as large as it says. Given: {image.width} x {image.height}")
        if header.format == "JPEG":
            least = _least_size(spec)
            image.draft(None, (least, least))
        image.load()
        return prepared(_upright(image, header.orientation), spec)
    except Problem:
        raise
    except MemoryError as error:
        raise TooLarge("the image must decode in less memory. Given: one that takes more than is allowed") from error
    except UnidentifiedImageError as error:
        raise _unidentified(header.data, ()) from error
    except Exception as error:  # Pillow lets through whatever its parsers meet
        raise BadRequest(f"the image must decode. Given: a damaged {header.format} ({error})") from error


def _decode_any(data: bytes, spec: ImageInput, max_pixels: int, more_formats: tuple[str, ...]) -> bytes:
    try:
        image = Image.open(io.BytesIO(data), formats=more_formats)
        width, height = image.size
        _expect_size(width, height, width * height, max_pixels)
        image.load()
        return prepare(image, spec)
    except Problem:
        raise
    except UnidentifiedImageError as error:
        raise _unidentified(data, more_formats) from error
    except Exception as error:
        raise BadRequest(f"the image must decode. Given: {error}") from error


def _unidentified(data: bytes, more_formats: tuple[str, ...]) -> BadRequest:
    if name := recognise(data):  # its first bytes are right, and its header is not
        return BadRequest(f"the image must decode. Given: a damaged {name}")
    taken = ", ".join((*formats.FORMATS, *more_formats))
    return BadRequest(f"the image must be one of {taken}. Given: {formats.describe(data)}")


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    """Return the picture turned as its camera was held."""
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _least_size(spec: ImageInput) -> int:
    return max(_LEAST_SIDE, 8 * max(spec.shape[1:]))


def _expect_few_pixels(header: Header, spec: ImageInput, max_pixels: int) -> None:
    """Refuse a picture that is too large, by its header.

    Of a baseline JPEG the pixels count that are decoded: libjpeg decodes it at 1/2, 1/4 or 1/8 of its size. A
    progressive one is held in memory whole, whatever it is decoded to.
    """
    counted = header.pixels
    if header.format == "JPEG" and header.scans == 1 and counted <= _REDUCED_JPEG * max_pixels:
        shrunk = min(header.width, header.height) // _least_size(spec)
        counted //= next((scale for scale in (8, 4, 2) if shrunk >= scale), 1) ** 2
    _expect_size(header.width, header.height, counted, max_pixels)


def _expect_size(width: int, height: int, counted: int, max_pixels: int) -> None:
    if counted > max_pixels:
        raise TooLarge(f"the image must have at most {max_pixels:,} pixels. Given: {width} x {height}")
    if max(width, height) > MAX_SIDE:
        raise TooLarge(f"the image must have at most {MAX_SIDE:,} pixels on each side. Given: {width} x {height}")
