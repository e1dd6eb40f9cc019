"""The one thing in a picture's EXIF block that changes how it is shown. Knows nothing about files."""

from __future__ import annotations

import struct

_ORIENTATION = 0x0112
_SHORT, _LONG = 3, 4


def orientation(block: bytes) -> int:
    """Return how the camera was held, 1 (upright) to 8; 1 if the block is malformed or does not say.

    Browsers show a picture whose EXIF is broken, so broken metadata is no reason to refuse it.
    """
    block = block.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", block, 4)
        (entries,) = struct.unpack_from(f"{order}H", block, start)
        for at in range(start + 2, start + 2 + 12 * entries, 12):
            tag, kind, _ = struct.unpack_from(f"{order}HHI", block, at)
            if tag == _ORIENTATION and kind in (_SHORT, _LONG):
                (value,) = struct.unpack_from(f"{order}{'H' if kind == _SHORT else 'I'}", block, at + 8)
                return int(value) if 1 <= value <= 8 else 1
    except struct.error:  # it points outside itself
        pass
    return 1
