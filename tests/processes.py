"""Processes that tests start: without the coverage where it harms, and whether they have ended."""

from __future__ import annotations

import os
import time

import psutil


def untraced() -> dict[str, str]:
    """The environment of a process that the coverage leaves out."""
    return {name: value for name, value in os.environ.items() if "COV" not in name}


def still_running(family: list[psutil.Process], seconds: float = 20) -> list[psutil.Process]:
    """Who of `family` does not end; one that has ended and only waits for init to notice does not count."""
    until = time.monotonic() + seconds
    while (alive := [process for process in family if _computes(process)]) and time.monotonic() < until:
        time.sleep(0.05)
    return alive


def _computes(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
