"""What tests of both halves share: where real data lies, and when a test is skipped for want of something."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
MNIST_ROOT = Path(os.environ.get("MNIST_ROOT", ROOT.parent / "shared" / "data"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    has_mnist = (MNIST_ROOT / "MNIST" / "raw" / "t10k-images-idx3-ubyte").exists()
    for item in items:
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
        if "data" in item.keywords and not has_mnist:
            item.add_marker(pytest.mark.skip(reason=f"needs MNIST under {MNIST_ROOT}; set MNIST_ROOT"))


@pytest.fixture(scope="session")
def mnist_root() -> Path:
    return MNIST_ROOT
