"""Turn what a caller has into the bytes of an image file. Knows nothing about the service.

Arrays and tensors become PNG, which loses nothing. No library is imported for them: whoever holds a tensor has imported
torch, so its type is looked up among what is loaded.
"""

from __future__ import annotations

import errno
import os
import struct
import sys
import zlib
from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from typing import TypeAlias

    import numpy as np
    import numpy.typing as npt
    from PIL import Image
    from torch import Tensor

    ImageLike: TypeAlias = (
        str
        | os.PathLike[str]
        | bytes
        | bytearray
        | memoryview
        | BinaryIO
        | Image.Image
        | npt.NDArray[np.uint8]
        | Tensor
    )
    Features: TypeAlias = Sequence[Sequence[float]] | npt.NDArray[np.floating[Any]] | Tensor

_MOST_FILE_BYTES = 2**28
"""Of a file that is read whole: a film may be among the pictures, and a device has no end."""

_PNG_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16"})
_NEAREST_MODES = {"PA": "RGBA", "La": "LA", "RGBa": "RGBA", "I": "I;16"}  # of the others; RGB but for these


def encode(image: ImageLike) -> bytes:
    """Return the image as a file's content.

    Raises:
        OSError: a path cannot be read.
        TypeError: it is nothing that can be an image.
        ValueError: an array or tensor of another shape or dtype than those of an image.
    """
    value: Any = image
    if isinstance(value, (str, os.PathLike)):
        return _read_file(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    if _is(value, "PIL.Image", "Image"):
        return _encode_picture(value)
    if _is(value, "numpy", "ndarray"):
        return _encode_pixels(value, value.shape, "an array must be uint8 [H, W] or [H, W, 3]")
    if _is(value, "torch", "Tensor"):
        return _encode_tensor(value)
    if hasattr(value, "read"):
        content = value.read()
        if isinstance(content, bytes):
            return content
        raise TypeError(f"a file must be opened in binary mode. Given: one that reads {type(content).__name__}")
    raise TypeError(
        "an image must be a path, bytes, a binary file, a PIL image, a numpy array or a torch tensor. "
        f"Given: {type(value).__name__}"
    )


def rows_of(features: Features) -> list[list[float]]:
    """Feature vectors as lists, from lists, arrays or a tensor."""
    value: Any = features
    rows = value.tolist() if hasattr(value, "tolist") else value
    return [row.tolist() if hasattr(row, "tolist") else list(row) for row in rows]


def encode_png(pixels: bytes, height: int, width: int, channels: int) -> bytes:
    """Return an 8-bit PNG of `pixels`, uint8 [H, W, C] row-major; `channels` is 1 (grey) or 3 (RGB)."""
    stride = width * channels
    # Each line begins with its filter; 0 is none.
    lines = b"".join(b"\0" + pixels[i : i + stride] for i in range(0, height * stride, stride))
    header = struct.pack(">IIBBBBB", width, height, 8, {1: 0, 3: 2}[channels], 0, 0, 0)
    # Level 1: on the way to a service that decodes it at once, time counts for more than size.
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(lines, 1)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def _read_file(path: str | os.PathLike[str]) -> bytes:
    with open(path, "rb") as file:  # noqa: PTH123
        size = os.fstat(file.fileno()).st_size
        content = file.read() if 0 < size <= _MOST_FILE_BYTES else file.read(_MOST_FILE_BYTES + 1)
    if len(content) > _MOST_FILE_BYTES:
        raise OSError(errno.EFBIG, f"more than {_MOST_FILE_BYTES:,} bytes, too many for a picture", str(path))
    return content


def _is(value: Any, module: str, name: str) -> bool:
    """Return whether `value` is a `module.name`; if nobody has imported the module, it cannot be."""
    return module in sys.modules and isinstance(value, getattr(sys.modules[module], name))


def _encode_picture(picture: Image.Image) -> bytes:
    picture = _upright(picture)
    if picture.mode not in _PNG_MODES:
        picture = picture.convert(_NEAREST_MODES.get(picture.mode, "RGB"))
    buffer = BytesIO()
    picture.save(buffer, "PNG", icc_profile=None)
    return buffer.getvalue()


def _upright(picture: Image.Image) -> Image.Image:
    """Return the picture turned as its camera was held: the PNG that is sent does not say how that was."""
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(picture)
    except Exception:  # noqa: BLE001 - its EXIF is malformed, which is no reason not to send it
        return picture


def _encode_tensor(tensor: Tensor) -> bytes:
    required = "a tensor must be uint8 [C, H, W] with 1 or 3 channels, or [H, W]"
    channels_last = tensor.permute(1, 2, 0) if tensor.ndim == 3 else tensor
    return _encode_pixels(channels_last.cpu().numpy(), tuple(tensor.shape), required)


def _encode_pixels(pixels: npt.NDArray[Any], shape: tuple[int, ...], required: str) -> bytes:
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    if pixels.dtype != "uint8" or pixels.ndim not in (2, 3) or channels not in (1, 3) or not pixels.size:
        raise ValueError(f"{required}, and not empty. Given: {pixels.dtype} {list(shape)}")
    height, width = pixels.shape[:2]
    return encode_png(pixels.tobytes(), height, width, channels)
