"""Progress is a bar on a terminal and lines elsewhere."""

from __future__ import annotations

import importlib.util
import io

import pytest

from service.commands import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(stream: io.StringIO) -> str:
    with progress.showing(stream, 10, 2) as advance:
        for _ in range(8):
            advance()
    return stream.getvalue()


def test_a_terminal_shows_a_bar_that_begins_where_the_last_run_ended() -> None:
    pytest.importorskip("rich")

    assert "10/10" in shown(Terminal())


def test_without_rich_a_terminal_has_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(progress, "_LINE_SECONDS", 0)

    assert shown(Terminal()).splitlines()[0].startswith("3 of 10 files, ")


def test_lines_are_few_and_without_control_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0, 1, 2, 6, 7, 8, 9, 10, 12])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))  # type: ignore[attr-defined]

    text = shown(io.StringIO())

    assert text == "5 of 10 files, 0 files/s\n10 of 10 files, 1 files/s\n"
