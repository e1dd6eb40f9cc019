"""Keeps a worker's line-up as the registry has it, on a thread that yields to the one that serves."""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Callable

from service.contract.registry import RegistryError
from service.engine.line_up import LineUp
from service.rollout.catalogue import Catalogue

logger = logging.getLogger(__name__)

_LOWEST_PRIORITY = 19
_JITTER = 0.2  # of the interval, so that many workers do not ask a bucket at the same moment


def follow(
    catalogue: Catalogue, line_up: LineUp, offer: Callable[[LineUp], None], *, poll_seconds: float
) -> threading.Thread:
    """Start to look at the registry every `poll_seconds` and `offer` each line-up that differs from the one before."""
    thread = threading.Thread(
        target=_follow, args=(catalogue, line_up, offer, poll_seconds), name="follower", daemon=True
    )
    thread.start()
    return thread


def _follow(catalogue: Catalogue, line_up: LineUp, offer: Callable[[LineUp], None], poll_seconds: float) -> None:
    def offer_if_new(found: LineUp) -> None:
        nonlocal line_up
        if found != line_up:
            line_up = found
            offer(found)

    if hasattr(os, "setpriority"):  # loading and warming up must not slow what is being served; Linux: this thread
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST_PRIORITY)
    trouble = ""
    is_complete = not any(absent.state == "loading" for absent in line_up.absent)
    while True:
        if is_complete:
            time.sleep(poll_seconds * random.uniform(1 - _JITTER, 1 + _JITTER))  # noqa: S311 - no secret
        is_complete = True  # whatever the first look gives, the next one waits for its turn
        try:
            found = catalogue.line_up(lambda absent: offer_if_new(line_up._replace(absent=absent)))
        except RegistryError as error:
            if str(error) != trouble:
                trouble = str(error)
                logger.error("the registry cannot be followed, and what serves serves on: %s", error)
            continue
        except Exception:
            logger.exception("following the registry met a bug")
            continue
        trouble = ""
        offer_if_new(found)
