"""What we ship reads handwriting: scikit-learn's digits, drawn on sheets and photographed, as files of many kinds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from service.contract.manifest import ImageInput
from service.contract.registry import Registry
from service.images import decode as images
from service.model.model import Model
from tests import pictures
from tests.conftest import ROOT

EACH = 30  # digits on each kind of sheet

WHITE, BLACK = (245, 240, 230), (25, 25, 30)

Ink = npt.NDArray[np.float64]  # [H, W], from 0 to 1
Sheet = npt.NDArray[np.float64]  # [H, W, 3], from 0 to 255
Draw = Callable[[Ink, np.random.Generator], Sheet]


@pytest.fixture(scope="module")
def mnist() -> Model:
    """The version of `mnist` that we serve."""
    registry = Registry(ROOT / "models")
    manifest = registry.manifest("mnist", registry.resolve("mnist"))
    return Model(manifest, registry.artifact(manifest))


def written(digit: Ink, chance: np.random.Generator) -> Ink:
    """An 8 x 8 digit drawn at some size, somewhere on a sheet of some size."""
    side = int(chance.integers(40, 120))
    width, height = chance.integers(20, 120, 2) + side
    sheet = Image.new("L", (int(width), int(height)))
    corner = int(chance.integers(5, width - side - 5)), int(chance.integers(5, height - side - 5))
    sheet.paste(Image.fromarray((digit * 255).astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC), corner)
    return np.asarray(sheet) / 255


def on_paper(ink: Ink, paper: object = WHITE, pen: object = BLACK) -> Sheet:
    shares = ink[:, :, None]
    return np.asarray(paper) * (1 - shares) + np.asarray(pen) * shares


def on_coloured_paper(ink: Ink, chance: np.random.Generator) -> Sheet:
    return on_paper(ink, chance.integers(170, 255, 3), chance.integers(0, 80, 3))


def cut_close(ink: Ink, _: np.random.Generator) -> Sheet:
    rows, columns = np.nonzero(ink > 0.3)
    return on_paper(ink[rows.min() - 2 : rows.max() + 3, columns.min() - 2 : columns.max() + 3])


def photographed(sheet: Sheet, chance: np.random.Generator, *, darkest: float, grain: float = 3) -> Sheet:
    """The sheet in a light that falls off to `darkest` at one side, with the grain of a camera."""
    direction = chance.uniform(0, 2 * np.pi)
    rows, columns = np.mgrid[0 : 1 : sheet.shape[0] * 1j, 0 : 1 : sheet.shape[1] * 1j]
    light = rows * np.sin(direction) + columns * np.cos(direction)
    light = darkest + (1 - darkest) * (light - light.min()) / np.ptp(light)
    return sheet * light[:, :, None] + chance.normal(0, grain, sheet.shape)


SHEETS: dict[str, tuple[Draw, str]] = {
    "black on white": (lambda ink, _: on_paper(ink), "PNG"),
    "coloured ink on coloured paper": (on_coloured_paper, "PNG"),
    "coloured ink on coloured paper, JPEG": (on_coloured_paper, "JPEG"),
    "chalk on a board": (lambda ink, _: on_paper(ink, (20, 70, 40), (230, 230, 225)), "JPEG"),
    "white on black": (lambda ink, _: on_paper(ink, (0, 0, 0), (255, 255, 255)), "PNG"),
    "pale pencil": (lambda ink, chance: photographed(on_paper(ink, pen=(170,) * 3), chance, darkest=1), "JPEG"),
    "cut close to the ink": (cut_close, "PNG"),
    "a grainy photo": (lambda ink, chance: photographed(on_paper(ink), chance, darkest=0.9, grain=12), "JPEG"),
    "a photo beside a window": (lambda ink, chance: photographed(on_paper(ink), chance, darkest=0.4), "JPEG"),
    "a photo in the dark": (lambda ink, chance: photographed(on_paper(ink) * 0.4, chance, darkest=0.8), "JPEG"),
}


def test_handwriting_is_read_whatever_it_is_on(mnist: Model) -> None:
    digits = load_digits()
    right = {}

    for seed, (name, (draw, kind)) in enumerate(SHEETS.items()):
        chance = np.random.default_rng(seed)
        chosen = chance.permutation(len(digits.images))[:EACH]
        inputs = bytearray()
        for digit in digits.images[chosen] / 16:
            sheet = draw(written(digit, chance), chance).clip(0, 255).astype(np.uint8)
            inputs += decode(pictures.encode(Image.fromarray(sheet), kind), mnist)
        predicted = mnist.run(mnist.batch(inputs)).class_ids
        right[name] = float((predicted == digits.target[chosen]).mean())

    assert np.mean(list(right.values())) >= 0.95, right
    assert min(right.values()) >= 0.9, right  # of so few on each; a kind of sheet that is not read at all is at 0.1


def decode(data: bytes, model: Model) -> bytes:
    spec = model.manifest.input
    assert isinstance(spec, ImageInput)
    return images.decode(data, spec, max_pixels=10**7)
