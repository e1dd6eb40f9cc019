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

    assert text == "5 of 10 files, 0 files/s, time left 0:00:10\n10 of 10 files, 1 file/s, time left 0:00:00\n"


def test_several_are_counted_at_once_under_their_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0, 10])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))  # type: ignore[attr-defined]
    stream = io.StringIO()

    with progress.showing(stream, 5_000, 1_000, "image") as advance:
        advance(1_000)

    assert stream.getvalue() == "2,000 of 5,000 images, 100 images/s, time left 0:00:30\n"


def test_a_bar_shows_the_rate_and_the_time_left() -> None:
    pytest.importorskip("rich")
    stream = Terminal()

    with progress.showing(stream, 10, 0, "image") as advance:
        advance(5)

    assert "images/s" in stream.getvalue()
    assert "time left" in stream.getvalue()
