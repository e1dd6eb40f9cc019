"""Processes that tests start: outside the coverage where it harms, and whether they have ended."""

from __future__ import annotations

import contextlib
import os

import psutil

from tests.waiting import wait_until


def untraced() -> dict[str, str]:
    """Return the environment of a process that the coverage leaves out."""
    return {name: value for name, value in os.environ.items() if "COV" not in name}


def still_running(family: list[psutil.Process], seconds: float = 20) -> list[psutil.Process]:
    """Return those of `family` that do not end; one that ended and only waits for init to notice does not count."""
    with contextlib.suppress(AssertionError):
        wait_until(lambda: not any(map(_computes, family)), seconds, interval=0.05)
    return [process for process in family if _computes(process)]


def _computes(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
