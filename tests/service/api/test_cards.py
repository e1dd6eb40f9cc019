"""A version's card and plots are read from the registry, and nothing else is."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette

from service.api import cards
from tests.registries import publish


@pytest.fixture
def root(tmp_path: Path) -> Path:
    publish(tmp_path / "registry", "rows")
    version = tmp_path / "registry" / "rows" / "1"
    (version / "card.md").write_text("# rows, version 1\n")
    (version / "learning_curve.png").write_bytes(b"\x89PNG")
    (tmp_path / "card.md").write_text("outside the registry")
    return tmp_path / "registry"


def get(root: Path, path: str) -> httpx.Response:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(Starlette(routes=cards.routes(str(root))))
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            return await client.get(path)

    return asyncio.run(ask())


def test_the_card_is_markdown_and_a_plot_is_a_picture(root: Path) -> None:
    card = get(root, "/models/rows/1/card.md")
    plot = get(root, "/models/rows/1/learning_curve.png")

    assert (card.status_code, card.text) == (200, "# rows, version 1\n")
    assert card.headers["content-type"] == "text/markdown; charset=utf-8"
    assert (plot.content, plot.headers["content-type"]) == (b"\x89PNG", "image/png")
    assert plot.headers["x-content-type-options"] == "nosniff"


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
    assert get(root, f"/models/{path}").status_code == 404


def test_a_missing_card_is_named(root: Path) -> None:
    (root / "rows" / "1" / "card.md").unlink()

    answer = get(root, "/models/rows/1/card.md")

    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"] == "rows@1 must have a file card.md. Given: the registry has none"
