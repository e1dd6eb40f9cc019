"""Read what a picture's file says before any pixel is decoded: its size, orientation and cost.

Everything that is not needed to show the picture is left out: text, profiles, previews, further frames. That is where
small files hide gigabytes, and what damaged metadata breaks. Knows nothing about models or decoding.
"""

from __future__ import annotations

import re
import struct
import zlib
from typing import NamedTuple

from service.images import exif, formats
from service.problems import BadRequest, TooLarge

MAX_SIDE = 16_384
"""Pixels of the longer side. What is longer is no photograph, and every row costs memory however short it is."""

MAX_SCANS = 100
"""Of one JPEG. Encoders write 10 to 20; each scan may cover the whole picture again (libjpeg-turbo's LJT-01-004)."""

MAX_TEXT_BYTES = 4 * 2**20
"""Of text and colour profile in one PNG, once inflated. They are not needed, but what is larger means harm."""

_MAX_SEGMENTS = 2_000  # of one JPEG, and chunks of a WebP


class Header(NamedTuple):
    """A picture that is not decoded yet."""

    format: str
    width: int  # as stored, before the orientation is applied
    height: int
    data: bytes  # the file, without what is not needed to show its first frame
    orientation: int = 1
    scans: int = 1  # times that a decoder goes over all pixels
    slow: bool = False  # decoded by code that takes far longer for a pixel than others

    @property
    def pixels(self) -> int:
        return self.width * self.height


def read(data: bytes) -> Header:
    """Read the header of a PNG, JPEG, WebP, GIF or BMP.

    Raises:
        BadRequest: `data` is none of these, or its structure is broken.
        TooLarge: a side is over `MAX_SIDE`, or it has more than `MAX_SCANS` scans.
    """
    if not data:
        raise BadRequest("the image must not be empty. Given: 0 bytes")
    name = formats.recognise(data)
    if name is None:
        raise BadRequest(f"the image must be one of PNG, JPEG, WebP, GIF, BMP. Given: {formats.describe(data)}")
    try:
        header = _READERS[name](data)
    except struct.error as error:
        raise BadRequest(f"the image must be whole. Given: a {name} that ends within its header") from error
    if not header.width or not header.height:
        raise BadRequest(f"the image must have pixels. Given: {header.width} x {header.height}")
    if header.scans > MAX_SCANS:
        raise TooLarge(f"a JPEG must have at most {MAX_SCANS} scans. Given: {header.scans:,}")
    return header


# PNG


_PNG_BITS = {1: 1, 2: 3, 4: 15}


def _png(data: bytes) -> Header:
    if data[8:16] != b"\0\0\0\rIHDR":
        raise BadRequest("the image must be a whole PNG. Given: one that does not begin with its header")
    width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
    kept, pixels, turned = [data[:33]], [], 1
    text_bytes = 0
    at = 33
    while at + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind, content, end = data[at + 4 : at + 8], data[at + 8 : at + 8 + length], at + 12 + length
        whole = end <= len(data) and zlib.crc32(content, zlib.crc32(kind)) == int.from_bytes(data[end - 4 : end], "big")
        if kind == b"IEND":
            break
        if kind in (b"IDAT", b"PLTE") and not whole:
            raise BadRequest(f"the image must be a whole PNG. Given: one whose {kind.decode()} chunk is damaged")
        if kind == b"IDAT":
            pixels.append(content)
        elif kind == b"PLTE":
            kept.append(data[at:end])
        elif kind == b"tRNS" and whole:
            kept.append(_png_chunk(kind, _scaled_transparency(content, depth, colour)))
        elif kind == b"eXIf" and whole:
            turned = exif.orientation(content)
        elif kind in _PNG_TEXT:
            text_bytes += _inflated_bytes(kind, content, MAX_TEXT_BYTES + 1 - text_bytes)
            if text_bytes > MAX_TEXT_BYTES:
                raise BadRequest(f"a PNG must have at most {MAX_TEXT_BYTES:,} bytes of text and profile. Given: more")
        at = end
    kept += [_png_chunk(b"IDAT", b"".join(pixels)), _png_chunk(b"IEND", b"")]
    return Header("PNG", width, height, b"".join(kept), turned)


_PNG_TEXT = {b"zTXt": 1, b"iTXt": 4, b"iCCP": 1}
"""Chunks that are compressed, and how many zero bytes stand before their last field."""


def _inflated_bytes(kind: bytes, content: bytes, most: int) -> int:
    """Return how many bytes a chunk inflates to, as far as `most`; 0 if it is damaged or not compressed."""
    compressed = content.split(b"\0", _PNG_TEXT[kind])[-1]
    start = compressed[1:] if kind != b"iTXt" else compressed
    try:
        return len(zlib.decompressobj().decompress(start, most))
    except zlib.error:
        return 0


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))


def _scaled_transparency(content: bytes, depth: int, colour: int) -> bytes:
    """Return the see-through colour on the scale of pixels that Pillow has decoded: of 255, but for 16-bit grey.

    Pillow compares it with the pixels as they are stored, so that 2-bit grey was never see-through.
    """
    if colour == 0 and depth < 8 and len(content) == 2:
        return struct.pack(">H", (content[1] * 255 // _PNG_BITS[depth]) & 255)
    if colour == 2 and depth == 16 and len(content) == 6:
        return bytes((0, content[0], 0, content[2], 0, content[4]))
    return content


# JPEG


_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd8\x01])")
_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # start of frame; the others are tables
_SCAN, _END, _APP1 = 0xDA, 0xD9, 0xE1
_METADATA = frozenset(range(0xE1, 0xF0)) - {0xEE} | {0xFE}  # APP0 and Adobe's APP14 say what the colours are


def _jpeg(data: bytes) -> Header:
    kept, start, at = [], 0, 2
    size: tuple[int, int] | None = None
    scans, turned, segments = 0, 1, 0
    while found := _MARKER.search(data, at):
        marker, segment = found[1][0], found.end(1)
        if marker == _END:
            break
        segments += 1
        if segments > _MAX_SEGMENTS:
            raise TooLarge(f"a JPEG must have at most {_MAX_SEGMENTS:,} segments. Given: more")
        (length,) = struct.unpack_from(">H", data, segment)
        at = segment + max(2, length)
        if marker in _SIZES:
            if size is not None:
                raise BadRequest("the image must be a JPEG with one size. Given: one that states its size twice")
            height, width = struct.unpack_from(">HH", data, segment + 3)
            size = width, height
        elif marker == _SCAN:
            scans += 1
        elif marker in _METADATA:
            if marker == _APP1 and data.startswith(b"Exif\0\0", segment + 2) and turned == 1:
                turned = exif.orientation(data[segment + 2 : at])
            kept.append(data[start : found.start()])
            start = at
    kept.append(data[start : found.end()] if found else data[start:])  # what follows the end is another picture
    if size is None:
        raise BadRequest("the image must be a whole JPEG. Given: one that ends before it states its size")
    return Header("JPEG", *size, b"".join(kept), turned, max(1, scans))


# GIF


_GIF_EXTENSION, _GIF_IMAGE, _GIF_CONTROL, _GIF_END = 0x21, 0x2C, 0xF9, b";"


def _gif(data: bytes) -> Header:
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + _gif_palette_bytes(flags)
    kept = [data[:at]]
    while at < len(data):
        begin = at
        if data[at] == _GIF_IMAGE:
            left, top, across, down, flags = struct.unpack_from("<HHHHB", data, at + 1)
            at = _gif_blocks_end(data, at + 11 + _gif_palette_bytes(flags))
            kept += [data[begin:at], _GIF_END]
            # Pillow enlarges the picture to hold a frame that is larger.
            return Header("GIF", max(width, left + across), max(height, top + down), b"".join(kept))
        if data[at] != _GIF_EXTENSION:
            at += 1  # decoders skip what they do not know
            continue
        at = _gif_blocks_end(data, at + 2)
        if data[begin + 1 : begin + 2] == bytes((_GIF_CONTROL,)):  # it says which colour is see-through
            kept.append(data[begin:at])
    raise BadRequest("the image must be a whole GIF. Given: one that ends before its first frame")


def _gif_palette_bytes(flags: int) -> int:
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def _gif_blocks_end(data: bytes, at: int) -> int:
    """Return the position after a list of blocks, each of which begins with its length; an empty one ends the list."""
    while at < len(data) and data[at]:
        at += 1 + data[at]
    return at + 1


# WebP and BMP


def _webp(data: bytes) -> Header:
    size: tuple[int, int] | None = None
    turned, at = 1, 12
    for _ in range(_MAX_SEGMENTS):
        if at + 8 > len(data):
            break
        kind, length = struct.unpack_from("<4sI", data, at)
        body = at + 8
        if size is None:
            size = _webp_size(kind, data, body)
        if kind == b"EXIF":
            turned = exif.orientation(data[body : body + length])
        at = body + length + length % 2
    if size is None:
        raise BadRequest("the image must be a whole WebP. Given: one that does not state its size")
    return Header("WEBP", *size, data, turned)


def _webp_size(kind: bytes, data: bytes, at: int) -> tuple[int, int] | None:
    if kind == b"VP8X":  # the canvas; an animation's frames are parts of it
        _, wide, high = struct.unpack_from("<I3s3s", data, at)
        return int.from_bytes(wide, "little") + 1, int.from_bytes(high, "little") + 1
    if kind == b"VP8 ":
        wide, high = struct.unpack_from("<HH", data, at + 6)
        return wide & 0x3FFF, high & 0x3FFF
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, at + 1)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return None


def _bmp(data: bytes) -> Header:
    (length,) = struct.unpack_from("<I", data, 14)
    if length == 12:
        width, height = struct.unpack_from("<HH", data, 18)
        return Header("BMP", width, height, data)
    width, height, _, _, compression = struct.unpack_from("<iiHHI", data, 18)
    # Pillow decodes run lengths in Python.
    return Header("BMP", abs(width), abs(height), data, slow=compression in (1, 2))


_READERS = {"PNG": _png, "JPEG": _jpeg, "GIF": _gif, "WEBP": _webp, "BMP": _bmp}
