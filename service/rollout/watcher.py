"""A thread that watches the registry and keeps a worker's line-up current, without slowing what is being served."""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Callable

from service.contract.registry import RegistryError
from service.engine.line_up import LineUp
from service.memory import return_freed_memory
from service.rollout.catalogue import Catalogue

logger = logging.getLogger(__name__)

_LOWEST_PRIORITY = 19
_JITTER = 0.2  # of the interval, so that many workers do not ask a bucket at the same moment


def watch(
    catalogue: Catalogue,
    line_up: LineUp,
    offer: Callable[[LineUp], None],
    *,
    poll_seconds: float,
    settled: threading.Event | None = None,
    wait: Callable[[float], None] = time.sleep,
) -> threading.Thread:
    """Start a thread that looks at the registry every `poll_seconds` and offers each line-up that differs.

    `settled` is set once the models are loaded that the first line-up lacks. `wait` may return early, to look at once.
    """
    watcher = Watcher(catalogue, line_up, offer, settled, wait)
    thread = threading.Thread(target=watcher.run, args=(poll_seconds,), name="watcher", daemon=True)
    thread.start()
    return thread


class Watcher:
    """Compares what the registry asks for with the line-up that was offered last."""

    def __init__(
        self,
        catalogue: Catalogue,
        line_up: LineUp,
        offer: Callable[[LineUp], None],
        settled: threading.Event | None = None,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self._catalogue = catalogue
        self._line_up = line_up
        self._offer = offer
        self._settled = settled or threading.Event()
        self._wait = wait
        self._trouble = ""  # the error that was logged last

    def run(self, poll_seconds: float) -> None:
        """Look at the registry for ever; once the service is complete, at the lowest priority."""
        if any(absent.state == "loading" for absent in self._line_up.absent):
            self.look()  # in haste: the first line-up lacks models, and the service is not ready before it has them
        return_freed_memory()  # warming the shipped models up had left 95 MiB free
        self._settled.set()
        if hasattr(os, "setpriority"):  # loading and warming up must not slow what is being served; Linux: this thread
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST_PRIORITY)
        while True:
            self.look()  # at once: the first line-up may be the one that was last known
            self._wait(poll_seconds * random.uniform(1 - _JITTER, 1 + _JITTER))  # noqa: S311 - no secret

    def look(self) -> None:
        """Look at the registry once, load what is new, and offer the line-up if it differs."""
        try:
            found = self._catalogue.line_up(self._offer_if_new)
        except RegistryError as error:
            if str(error) != self._trouble:
                self._trouble = str(error)
                logger.error("the registry cannot be read; what is served stays served: %s", error)
            self._offer_if_new(self._catalogue.without_registry(self._line_up))
            return
        except Exception:
            logger.exception("watching the registry met a bug")
            return
        self._trouble = ""
        self._offer_if_new(found)

    def _offer_if_new(self, line_up: LineUp) -> None:
        if line_up != self._line_up:
            self._line_up = line_up
            self._offer(line_up)
