"""What we ship reads handwriting: scikit-learn's digits, drawn on sheets and photographed, as files of many kinds."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from service.contract.manifest import ImageInput
from service.contract.registry import Registry
from service.images import decode as images
from service.images.mnist import is_mnist
from service.model.model import Model
from tests import pictures
from tests.conftest import ROOT
from training.data import idx

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
    light: Sheet = rows * np.sin(direction) + columns * np.cos(direction)
    light = darkest + (1 - darkest) * (light - light.min()) / np.ptp(light)
    return sheet * light[:, :, None] + chance.normal(0, grain, sheet.shape)


def lines(shape: tuple[int, int], chance: np.random.Generator, tilt: float) -> Ink:
    """Lines from one side of a sheet to the other, a little tilted."""
    rows, columns = np.indices(shape)
    slope, gap, width = chance.uniform(-tilt, tilt), chance.uniform(14, 40), chance.uniform(1, 2.5)
    apart = abs((rows + slope * columns - chance.uniform(0, gap)) % gap - gap / 2)
    return (width / 2 + 0.5 - apart).clip(0, 1)


def on_ruled_paper(ink: Ink, chance: np.random.Generator) -> Sheet:
    ruled = np.asarray(WHITE) * (1 - 0.35 * lines(ink.shape, chance, 0.05)[:, :, None])
    return on_paper(ink, ruled) + chance.normal(0, 2, (*ink.shape, 3))


def on_squared_paper(ink: Ink, chance: np.random.Generator) -> Sheet:
    state = chance.bit_generator.state
    across = lines(ink.shape, chance, 0.03)
    chance.bit_generator.state = state  # the same gap and tilt
    down = lines(ink.shape[::-1], chance, 0.03).T
    ruled = np.asarray(WHITE) * (1 - 0.35 * np.maximum(across, down)[:, :, None])
    return on_paper(ink, ruled) + chance.normal(0, 2, (*ink.shape, 3))


def beside_a_dark_desk(ink: Ink, chance: np.random.Generator) -> Sheet:
    """The sheet, with the desk in the frame at one side or at two that meet."""
    sheet = on_paper(ink)
    for side in (0, 1)[: chance.integers(1, 3)]:
        wide = int(sheet.shape[side] * chance.uniform(0.05, 0.25)) + 2
        frame = [(0, 0)] * 3
        frame[side] = (wide, 0) if chance.integers(2) else (0, wide)
        sheet = np.pad(sheet, frame, constant_values=chance.uniform(20, 90))
    return sheet + chance.normal(0, 3, sheet.shape)


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
    "ruled paper": (on_ruled_paper, "JPEG"),
    "squared paper": (on_squared_paper, "JPEG"),
    "a dark desk in the frame": (beside_a_dark_desk, "JPEG"),
}


@pytest.mark.parametrize("page", ["README.md", "docs/clients.md"])
def test_the_documentation_shows_what_the_served_version_answers(mnist: Model, page: str) -> None:
    shown = re.findall(r"^(docs/\w+\.png) +(\d) +([\d.]+)%", (ROOT / page).read_text(), re.MULTILINE)
    inputs = b"".join(decode((ROOT / file).read_bytes(), mnist) for file, _, _ in shown)

    found = mnist.run(mnist.batch(bytearray(inputs)))

    assert len(shown) == 2
    assert [int(label) for _, label, _ in shown] == found.class_ids.tolist()
    assert [float(share) for _, _, share in shown] == pytest.approx(100 * found.confidences, abs=0.006)


def share_read(mnist: Model, draw: Draw, kind: str, seed: int) -> float:
    """Return the share of digits that are read right on sheets that `draw` makes, as files of a kind."""
    digits = load_digits()
    chance = np.random.default_rng(seed)
    chosen = chance.permutation(len(digits.images))[:EACH]
    inputs = bytearray()
    for digit in digits.images[chosen] / 16:
        sheet = draw(written(digit, chance), chance).clip(0, 255).astype(np.uint8)
        inputs += decode(pictures.encode(Image.fromarray(sheet), kind), mnist)
    return float((mnist.run(mnist.batch(inputs)).class_ids == digits.target[chosen]).mean())


def test_handwriting_is_read_whatever_it_is_on(mnist: Model) -> None:
    right = {name: share_read(mnist, *sheet, seed) for seed, (name, sheet) in enumerate(SHEETS.items())}

    assert np.mean(list(right.values())) >= 0.95, right
    assert min(right.values()) >= 0.9, right  # of so few on each; a kind of sheet that is not read at all is at 0.1


@pytest.mark.parametrize("name", ["ruled paper", "squared paper", "a dark desk in the frame"])
def test_handwriting_is_read_in_a_cameras_picture_too(mnist: Model, name: str) -> None:
    draw, kind = SHEETS[name]

    def enlarged(ink: Ink, chance: np.random.Generator) -> Sheet:
        sheet = Image.fromarray(draw(ink, chance).clip(0, 255).astype(np.uint8))
        large = np.asarray(sheet.resize((sheet.width * 4, sheet.height * 4), Image.Resampling.BICUBIC))
        return large + chance.normal(0, 3, large.shape)

    assert share_read(mnist, enlarged, kind, seed=7) >= 0.9


GREYS = [0, 10, 20, 26, 50, 77, 102, 125]


@pytest.mark.data
@pytest.mark.parametrize("ink", ["light", "dark"])
@pytest.mark.parametrize("grey", GREYS)
def test_grey_paper_of_the_models_size_is_read_as_paper_of_any_other_size(
    mnist: Model, mnist_root: Path, grey: int, ink: str
) -> None:
    raw = mnist_root / "MNIST" / "raw"
    shares = idx.read(raw / "train-images-idx3-ubyte")[-500:].numpy() / 255
    labels = idx.read(raw / "train-labels-idx1-ubyte")[-500:].numpy()
    ground, pen = (grey, 255) if ink == "light" else (255 - grey, 20)
    sheets = (ground * (1 - shares) + pen * shares).astype(np.uint8)

    inputs = bytearray(b"".join(decode(pictures.encode(Image.fromarray(sheet)), mnist) for sheet in sheets))

    assert (mnist.run(mnist.batch(inputs)).class_ids == labels).mean() >= 0.97


@pytest.mark.data
def test_every_image_of_mnist_is_taken_as_it_is(mnist_root: Path) -> None:
    images_of_mnist = idx.read(mnist_root / "MNIST" / "raw" / "train-images-idx3-ubyte").numpy()

    assert all(is_mnist(image.tobytes(), 28) for image in images_of_mnist)


def decode(data: bytes, model: Model) -> bytes:
    spec = model.manifest.input
    assert isinstance(spec, ImageInput)
    return images.decode(data, spec, max_pixels=10**7)
