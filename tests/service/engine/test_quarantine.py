"""A version is in quarantine when it has ended too many processes in too short a time, and others are not."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from service.engine.quarantine import LIMITS, WINDOW_SECONDS, Cause, Quarantine


@pytest.mark.parametrize("cause", LIMITS)
def test_the_last_of_so_many_deaths_brings_a_version_into_quarantine_with_the_reason(
    tmp_path: Path, cause: Cause
) -> None:
    found = Quarantine(tmp_path / "deaths")
    seen = []
    for _ in range(LIMITS[cause]):
        found.record("a@1", cause)
        found.record("b@1", "image" if cause == "worker" else "worker")
        seen.append((found.news() or {}).get("a@1", ""))

    assert seen[:-1] == [""] * (LIMITS[cause] - 1)
    assert seen[-1] == f"it ended {LIMITS[cause]} processes within 60 s; publish another version"


def test_deaths_of_different_causes_and_versions_are_not_added_up(tmp_path: Path) -> None:
    found = Quarantine(tmp_path / "deaths")
    for cause in LIMITS:
        for version in ("a@1", "a@2"):
            for _ in range(LIMITS[cause] - 1):
                found.record(version, cause)

    assert found.news() == {}


def test_deaths_that_are_far_apart_are_not_added_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Quarantine(tmp_path / "deaths")
    now = time.monotonic()
    for i in range(10):
        monkeypatch.setattr("service.engine.quarantine.time.monotonic", lambda i=i: now + i * WINDOW_SECONDS)
        found.record("a@1", "image")

    assert found.news() == {}


def test_there_is_no_news_before_the_first_death_and_between_two(tmp_path: Path) -> None:
    found, other = Quarantine(tmp_path / "deaths"), Quarantine(tmp_path / "deaths")
    before = found.news()
    other.record("a@1", "image")

    assert before is None
    assert found.news() == {}
    assert found.news() is None


def test_a_line_that_was_cut_off_does_not_hide_the_others(tmp_path: Path) -> None:
    found = Quarantine(tmp_path / "deaths")
    for _ in range(LIMITS["image"]):
        found.record("a@1", "image")
        with (tmp_path / "deaths").open("a") as file:
            file.write('{"version": "a@1", "cau')

    assert list(found.news() or ()) == ["a@1"]


def test_a_death_that_cannot_be_recorded_harms_nobody(tmp_path: Path) -> None:
    Quarantine(tmp_path / "nowhere" / "deaths").record("a@1", "image")

    assert Quarantine(tmp_path / "nowhere" / "deaths").news() is None
