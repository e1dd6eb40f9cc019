"""Read IDX files, the format in which MNIST and its kin are published. Knows nothing about which datasets there are.

torchvision reads them too, at 1.5 s of imports.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

BYTES = 8
"""The type code of uint8, the one that these datasets have."""


def read(file: Path) -> Tensor:  # uint8, of the shape that the file declares
    """Return the array in `file`.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not an IDX file of bytes, whole.
    """
    content = np.fromfile(file, np.uint8)
    if len(content) < 4 or content[:3].tolist() != [0, 0, BYTES]:
        raise ValueError(f"{file.name} must begin as an IDX file of bytes does. Given: {content[:4].tolist()}")
    header = 4 + 4 * int(content[3])
    shape = content[4:header].view(">u4").tolist() if len(content) >= header else []
    size = int(np.prod(shape, dtype=np.int64))
    if len(content) != header + size:
        raise ValueError(f"{file.name} must have the {header + size:,} bytes that it declares. Given: {len(content):,}")
    return torch.from_numpy(content)[header:].view(shape)
