"""Name a file's format by its first bytes, for people whose file is refused. Knows nothing about decoding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from service.counting import counted

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
"""What the service takes."""

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")
"""How the names of such files end, in any case."""


def other_endings(names: Iterable[str]) -> Iterator[str]:
    """Return how those names end that are of no such file, nor hidden: ".heic", or "without an ending"."""
    for name in names:
        name = name.rpartition("/")[2].lower()
        if not name.startswith(".") and not name.endswith(SUFFIXES):
            stem, dot, suffix = name.rpartition(".")
            yield f".{suffix}" if stem and dot else "without an ending"


_ACCEPTED = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
)

_BOXES = {
    b"avif": "an AVIF image",
    b"avis": "an AVIF image",
    b"heic": "an HEIC image",
    b"heix": "an HEIC image",
    b"hevc": "an HEIC image",
    b"heim": "an HEIC image",
    b"mif1": "an HEIC image",
    b"msf1": "an HEIC image",
    b"crx ": "a Canon raw image",
}
"""Brands of the ISO media file format; every other brand is a video."""

_OTHERS = (
    (b"\x89PNG", "a PNG whose line ends were changed on the way; curl sends a file as it is with --data-binary"),
    (b"II*\0", "a TIFF image"),
    (b"MM\0*", "a TIFF image"),
    (b"II+\0", "a TIFF image"),
    (b"MM\0+", "a TIFF image"),
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive or an office document"),
    (b"PK\x05\x06", "an empty ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL image"),
    (b"\xff\x0a", "a JPEG XL image"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 image"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 image"),
    (b"8BPS", "a Photoshop document"),
    (b"\0\0\1\0", "a Windows icon"),
    (b"\x1aE\xdf\xa3", "a Matroska or WebM video"),
    (b"OggS", "an Ogg file"),
    (b"ID3", "an MP3 file"),
    (b"%!PS", "a PostScript document"),
    (b"DDS ", "a DDS texture"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x7fELF", "a program"),
    (b"SQLite format 3\0", "an SQLite database"),
    (b"data:", "a data URL as text; send its bytes, or send it as JSON"),
)

_NETPBM = {b"P1", b"P2", b"P3", b"P4", b"P5", b"P6", b"P7", b"Pf", b"PF"}


def recognise(data: bytes) -> str | None:
    """Return which of `FORMATS` the bytes begin like, or None."""
    for start, name in _ACCEPTED:
        if data.startswith(start):
            return name
    return "WEBP" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None


def describe(data: bytes) -> str:
    """Say in words what a file seems to be that is none of `FORMATS`, with its size."""
    size, look = counted(len(data), "byte"), "looks" if len(data) == 1 else "look"
    if not any(data):
        return f"{size} that {'is' if len(data) == 1 else 'are all'} zero"
    guess = _guess(data)
    return f"{size} that {look} like {guess}" if guess else f"{size} of no format that is known"


def _guess(data: bytes) -> str:
    """Name what the bytes look like, or return ''."""
    for start, name in _OTHERS:
        if data.startswith(start):
            return name
    if data[4:8] == b"ftyp":
        return _BOXES.get(data[8:12], "a video")
    if data[:4] == b"RIFF":
        return {b"AVI ": "an AVI video", b"WAVE": "a WAV sound"}.get(data[8:12], "a RIFF file that is no WebP")
    if data[:2] in _NETPBM and data[2:3].isspace():
        return "a Netpbm image (PBM, PGM, PPM)"
    return _guess_text(data)


def _guess_text(data: bytes) -> str:
    """Name the kind of text, or return '' if it is none."""
    try:
        text = data[:1000].decode("utf-8-sig", errors="strict" if len(data) <= 1000 else "ignore").lstrip().lower()
    except UnicodeDecodeError:
        return ""
    if any(ord(letter) < 32 and letter not in "\t\r\n\f" for letter in text):
        return ""
    if text.startswith("<svg") or (text.startswith(("<?xml", "<!--")) and "<svg" in text):
        return "an SVG drawing"
    if text.startswith(("<!doctype html", "<html")):
        return "an HTML page"
    if text.startswith("<"):
        return "XML or HTML text"
    if text.startswith(("{", "[")):
        return "JSON text; send it with the content type application/json"
    return "text"
