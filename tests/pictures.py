"""Pictures to send: encoded images whose class under `registries.BrightestRow` is known."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image


def row(class_id: int, *, size: int = 28) -> Image.Image:
    """A black grey image with the row `class_id` white."""
    pixels = np.zeros((size, size), np.uint8)
    pixels[class_id] = 255
    return Image.fromarray(pixels)


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def row_png(class_id: int) -> bytes:
    return encode(row(class_id))


def bomb(side: int = 20_000) -> bytes:
    """A PNG of a few hundred kilobytes that decodes to side x side pixels; `side` is a multiple of 100."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    # Blocks that refer to nothing before them can be repeated, which is quicker than compressing 400 MB of zeros.
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = deflate.compress(bytes((side + 1) * 100)) + deflate.flush(zlib.Z_FULL_FLUSH)
    adler = ((side + 1) * side % 65521) << 16 | 1  # of that many zeros
    lines = b"\x78\xda" + block * (side // 100) + deflate.flush() + struct.pack(">I", adler)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", lines) + chunk(b"IEND", b"")
