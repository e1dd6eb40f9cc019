"""The log says once by what artifacts are confined; where nothing can be taken away, processes run as they did."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from service.rollout import confinement, kernel


@pytest.mark.parametrize(
    ("abi", "seccomp", "level", "message"),
    [
        (7, True, logging.INFO, "artifacts are confined by Landlock (ABI 7) and seccomp"),
        (
            0,
            True,
            logging.WARNING,
            "artifacts are confined by seccomp, because this system does not offer Landlock",
        ),
        (
            0,
            False,
            logging.WARNING,
            "artifacts are confined by nothing, because this system does not offer Landlock nor seccomp",
        ),
    ],
)
def test_the_log_says_by_what_artifacts_are_confined(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    abi: int,
    seccomp: bool,
    level: int,
    message: str,
) -> None:
    monkeypatch.setattr(kernel, "landlock_abi", lambda: abi)
    monkeypatch.setattr(kernel, "has_seccomp", lambda: seccomp)

    with caplog.at_level(logging.INFO, logger=confinement.__name__):
        confinement.announce()

    assert caplog.record_tuples == [(confinement.__name__, level, message)]


CONFINE = [confinement.confine_trial, lambda: confinement.confine_worker([Path("/tmp")], connects=False)]


def fail(*_: object, **__: object) -> None:
    raise OSError(errno.E2BIG, "too many layers")


@pytest.mark.parametrize("confine", CONFINE)
def test_where_the_system_offers_nothing_nothing_is_tried(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, confine: Callable[[], None]
) -> None:
    monkeypatch.setattr(kernel, "landlock_abi", lambda: 0)
    monkeypatch.setattr(kernel, "has_seccomp", lambda: False)
    for name in ("restrict", "refuse_calls"):
        monkeypatch.setattr(kernel, name, fail)

    confine()

    assert caplog.records == []


@pytest.mark.parametrize("confine", CONFINE)
def test_what_cannot_be_taken_away_is_logged_and_the_process_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, confine: Callable[[], None]
) -> None:
    monkeypatch.setattr(kernel, "landlock_abi", lambda: 7)
    monkeypatch.setattr(kernel, "has_seccomp", lambda: False)
    monkeypatch.setattr(kernel, "restrict", fail)

    confine()

    assert "keeps rights that it does not need: [Errno 7] too many layers" in caplog.text
