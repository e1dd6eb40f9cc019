"""The weights that a network starts from: torchvision's own, downloaded if missing, or those of a file.

Knows nothing about recipes.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

from torch import Tensor

from training import tensor_files
from training.errors import OptionError, UnreachableError

logger = logging.getLogger(__name__)

OFFICIAL = "resnet18-f37072fd"
"""torchvision's weights, of ImageNet; the end of the name is the beginning of the file's sha256, as in all of ours."""


@dataclass(frozen=True)
class Weights:
    """Weights of torchvision's ResNet-18."""

    name: str
    tensors: Mapping[str, Tensor]


def read(file: Path | None) -> Weights:
    """Return the weights in `file`, or torchvision's own.

    Raises:
        OptionError: `file` does not hold weights of ResNet-18.
        UnreachableError: torchvision's cannot be downloaded.
    """
    return _downloaded() if file is None else _from_file(file)


def _downloaded() -> Weights:
    from torchvision.models import ResNet18_Weights

    official = ResNet18_Weights.IMAGENET1K_V1
    try:
        return Weights(Path(official.url).stem, official.get_state_dict(progress=False, check_hash=True))
    except (URLError, OSError, RuntimeError) as error:
        raise UnreachableError(
            f"the weights must be downloadable from {official.url}. Given: {error}. "
            "Download that file where there is a network, and name it: --pretrained FILE"
        ) from error


def _from_file(file: Path) -> Weights:
    from torchvision.models import resnet18

    try:
        content = file.read_bytes()
        tensors = tensor_files.read(file)
        resnet18(weights=None).load_state_dict(tensors)
    except OSError as error:
        raise OptionError(f"pretrained must be a file that can be read. Given: {error}") from error
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
        is_other = isinstance(error, tensor_files.NotTensorsError)
        reason = f"which holds {error}" if is_other else str(error).partition("\n")[0]
        raise OptionError(
            f"pretrained must be a file with the state_dict of torchvision's ResNet-18. Given: {file} ({reason})"
        ) from error
    return Weights(f"resnet18-{hashlib.sha256(content).hexdigest()[:8]}", tensors)
