"""Every lesson in docs/lessons/ prints what it says and draws the pictures that it shows."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service.contract.registry import Registry
from tests.lessons.page import agrees, blocks_of, run
from tests.running import Service, serving
from tests.training import quickly
from tests.waiting import wait_until
from training.learning.device import cpu_threads

ROOT = Path(__file__).parents[2]
LESSONS = ROOT / "docs" / "lessons"
PAGES = sorted(path for path in LESSONS.glob("*.md") if path.name != "README.md")
REGISTRY = "lessons"
ADDRESS = "localhost:8000"
LONG = {"neural_net"}  # ten epochs of MNIST and what follows take 40 s of computing: with --thorough
NEEDS = {"MNIST": "MNIST/raw/train-images-idx3-ubyte", "CIFAR-10": "cifar10/train-1.zip"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for all pages, as the root of the repository is for a reader: its `docs` lead to ours."""
    folder = tmp_path_factory.mktemp("lessons")
    (folder / "docs").symlink_to(ROOT / "docs")
    return folder


@pytest.fixture(scope="module")
def service_of(folder: Path) -> Iterator[Callable[[], Service]]:
    """A function that starts a service of the lessons' registry and waits until it serves all that is published."""
    with contextlib.ExitStack() as stack:
        running: list[Service] = []

        def service() -> Service:
            registry = folder / REGISTRY
            if not running:
                options = ("--poll-seconds", "0.2", "--http-processes", "1")
                running.append(stack.enter_context(serving(registry, *options, traced=False)))
            models = Registry(registry).models()

            def all_ready() -> bool:
                statuses = {running[0].client.get(f"/v2/models/{model}/ready").status_code for model in models}
                return statuses == {200}

            wait_until(all_ready, 30)
            return running[0]

        yield service


@pytest.fixture(autouse=True)
def reader(folder: Path, mnist_root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The place of a reader: in that folder, with data, without settings of whoever runs the tests."""
    monkeypatch.chdir(folder)
    for name in [name for name in os.environ if name.startswith(("TRAINING_", "SERVICE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TRAINING_DATA_DIR", str(mnist_root))
    monkeypatch.setenv("TRAINING_CACHE_DIR", str(folder / "cache"))
    monkeypatch.setenv("TRAINING_DEVICE", "cpu")
    quickly.hasten(monkeypatch.setattr)
    with cpu_threads(1):
        yield


def cases() -> Iterator[Any]:
    for page in PAGES:
        needs = re.search(r"^Needs ([\w-]+):", page.read_text(), re.MULTILINE)
        yield pytest.param(page, needs and needs[1], id=page.stem, marks=[pytest.mark.data] if needs else [])


@pytest.mark.parametrize(("page", "needs"), list(cases()))
def test_a_lesson_prints_what_it_says(
    page: Path,
    needs: str | None,
    folder: Path,
    mnist_root: Path,
    service_of: Callable[[], Service],
    monkeypatch: pytest.MonkeyPatch,
    times: int,
) -> None:
    if page.stem in LONG and times == 1:
        pytest.skip("takes most of a minute: with --thorough")
    if needs and not (mnist_root / NEEDS[needs]).exists():
        pytest.skip(f"needs {needs}: {mnist_root / NEEDS[needs]}")
    if "curl" in page.read_text() and not shutil.which("curl"):
        pytest.skip("needs curl")
    namespace: dict[str, Any] = {"__name__": "__main__"}
    started = time.time()

    for block in blocks_of(page.read_text()):
        code = block.code
        if block.kind == "console" and (ADDRESS in code or code.startswith("python -m service")):
            url = service_of().url
            monkeypatch.setenv("SERVICE_URL", url)
            code = code.replace(ADDRESS, url.removeprefix("http://"))
        printed = run(replace(block, code=code), namespace, title=str(page))
        assert agrees(block.expected, printed), (
            f"{page.name}:{block.line} must print\n{block.expected}\nGiven:\n{printed}"
        )

    for picture in pictures_of(page):
        drawn = folder / picture
        assert drawn.stat().st_mtime >= started - 1, f"{page.name} shows {picture}, which its code must draw"
        assert difference(drawn, LESSONS / picture) < 2


def pictures_of(page: Path) -> list[str]:
    return re.findall(r"!\[[^]]*\]\(([\w-]+\.png)\)", page.read_text())


def difference(drawn: Path, committed: Path) -> float:
    """Return the mean difference of two pictures in grey levels: another version of matplotlib moves a few pixels."""
    first, second = Image.open(drawn).convert("L"), Image.open(committed).convert("L")
    resized = np.asarray(first.resize(second.size), np.float32)
    return float(np.abs(resized - np.asarray(second, np.float32)).mean())


def test_the_index_has_every_lesson_and_all_but_two_need_no_data() -> None:
    index = (LESSONS / "README.md").read_text()
    needing = [page.stem for page in PAGES if re.search(r"^Needs ", page.read_text(), re.MULTILINE)]

    assert set(re.findall(r"\]\((\w+\.md)\)", index)) >= {page.name for page in PAGES}
    assert needing == ["neural_net", "xigua"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_lesson_names_its_source_and_ends_in_the_product(page: Path) -> None:
    text = page.read_text()
    commands = [block.code for block in blocks_of(text) if block.kind == "console"]

    assert re.search(r"^Idea: ", text, re.MULTILINE)
    assert any(command.startswith("python -m training train") and "--publish" in command for command in commands)
    assert any("card.md" in command for command in commands)
    assert "predict" in commands[-1]


def test_pictures_that_differ_are_told_apart(tmp_path: Path) -> None:
    for name, grey in (("black", 0), ("white", 255)):
        Image.new("L", (20, 20), grey).save(tmp_path / f"{name}.png")

    assert difference(tmp_path / "black.png", tmp_path / "white.png") == 255
    assert difference(tmp_path / "black.png", tmp_path / "black.png") == 0
