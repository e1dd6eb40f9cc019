"""A version that learnt from the user's own pictures is served exactly what it learnt from, pixel for pixel."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from service.contract.manifest import Fit, ImageInput, Style
from tests import pictures, registries
from tests.running import serving
from training.data import sources
from training.publishing.publish import input_spec


class Mean(nn.Module):
    """Two classes, for any image."""

    def forward(self, images: Tensor) -> Tensor:
        mean = images.float().flatten(1).mean(dim=1)
        return torch.stack((mean, 255 - mean), dim=1) / 255


def own_pictures(root: Path) -> list[Path]:
    """Two classes of pictures of many sizes and kinds; those that a folder dataset tests on, in its order."""
    chance = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds: list[tuple[str, str, dict[str, object]]] = [
        ("L", "PNG", {}),
        ("RGB", "JPEG", {"exif": exif}),
        ("RGBA", "PNG", {}),
        ("P", "GIF", {}),
        ("LA", "PNG", {}),
        ("RGB", "WEBP", {"quality": 50}),
        ("CMYK", "JPEG", {}),
        ("1", "BMP", {}),
    ]
    for i, (mode, kind, options) in enumerate(kinds * 5):
        pixels = chance.integers(0, 256, (30 + i, 50, 4), np.uint8)
        image = Image.fromarray(pixels).convert("RGB" if mode == "CMYK" else mode).convert(mode)
        path = root / "ab"[i % 2] / f"{i:02}.{'jpg' if kind == 'JPEG' else kind.lower()}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pictures.encode(image, kind, **options))
    return [file for folder in sorted(root.iterdir()) for file in sorted(folder.iterdir())[::5]]


def test_a_version_sees_of_its_own_files_what_it_was_trained_on(tmp_path: Path) -> None:
    files = own_pictures(tmp_path / "own")
    learnt: dict[str, Tensor] = {}
    for style in get_args(Style):
        for fit in get_args(Fit):
            data = sources.load(f"folder:{tmp_path / 'own'}", "test", Path(), style=style, fit=fit)
            name = f"{style}-{fit}"
            learnt[name] = data.inputs
            spec = input_spec(data)
            assert isinstance(spec, ImageInput)
            registries.publish(tmp_path / "registry", name, Mean(), spec=spec, classes=data.classes)

    with serving(tmp_path / "registry", "--default-model", "photo-crop") as service:
        for name, inputs in learnt.items():
            for file, expected in zip(files, inputs, strict=True):
                query = f"?model={name}&show_input=true"
                answer = service.predict(file.read_bytes(), "application/octet-stream", query).json()
                shown = Image.open(io.BytesIO(base64.b64decode(answer["predictions"][0]["input"].split(",")[1])))
                seen = np.atleast_3d(np.asarray(shown)).transpose(2, 0, 1)
                assert np.array_equal(seen, expected.numpy()), f"{file.name}, {name}"
