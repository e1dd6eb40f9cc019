"""A version's card and plots are read from the registry, and nothing else is."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import orjson
import pytest

from service.api import cards
from service.api.router import Router
from service.contract.registry import Registry
from service.http.messages import Response, problem_response
from service.telemetry.observer import Observer
from tests.registries import publish
from tests.service.api.asking import answer


@pytest.fixture
def root(tmp_path: Path) -> Path:
    publish(tmp_path / "registry", "rows")
    version = tmp_path / "registry" / "rows" / "1"
    (version / "card.md").write_text("# rows, version 1\n")
    (version / "learning_curve.png").write_bytes(b"\x89PNG")
    (tmp_path / "card.md").write_text("outside the registry")
    return tmp_path / "registry"


def get(root: Path, path: str) -> Response:
    routes = [cards.route(lambda: Registry(root))]
    router = Router(routes, None, cast("Observer", None), refuse=problem_response, refuse_below={})
    return answer(router, "GET", path)


def test_the_card_is_markdown_and_a_plot_is_a_picture(root: Path) -> None:
    card = get(root, "/models/rows/1/card.md")
    plot = get(root, "/models/rows/1/learning_curve.png")

    assert (card.status, card.body, card.media_type) == (200, b"# rows, version 1\n", b"text/markdown; charset=utf-8")
    assert (plot.status, plot.body, plot.media_type) == (200, b"\x89PNG", b"image/png")
    assert (b"x-content-type-options", b"nosniff") in plot.headers


@pytest.mark.parametrize(
    "path",
    [
        "rows/1/model.pt",
        "rows/1/manifest.json",
        "rows/2/card.md",
        "rows/production/card.md",
        "columns/1/card.md",
        "../1/card.md",
        "%2e%2e/1/card.md",
        "..%2f../1/card.md",
        "rows/1/..%2fcard.md",
        "rows/1/no_such.png",
    ],
)
def test_anything_else_is_not_found(root: Path, path: str) -> None:
    assert get(root, f"/models/{path}").status == 404


def test_a_missing_card_is_named(root: Path) -> None:
    (root / "rows" / "1" / "card.md").unlink()

    found = get(root, "/models/rows/1/card.md")

    assert found.media_type == b"application/problem+json"
    assert orjson.loads(found.body)["detail"] == "rows@1 must have a file card.md. Given: the registry has none"
