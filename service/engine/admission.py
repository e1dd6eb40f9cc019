"""Admission of requests to one HTTP process: of those that fit its queue and can be answered in time.

Fair between models and between requests, as the queues are: neither a flood for one model nor a few large requests take
the places of all others.
"""

from __future__ import annotations

from collections.abc import Callable, Set

from service.counting import counted
from service.engine.served_models import Key
from service.problems import QueueFull

_MAX_RETRY_SECONDS = 60
_MOST_OF_THE_TIME = 0.85  # that a request has may be what it is expected to take; the rest is for what was not
_SMOOTHING = 0.1  # the weight of the newest measurement in a moving average
_MEMORY_SECONDS = 1.0  # of the busy time from which a rate is learnt; blocks come unevenly, so less is too little


class Backlog:
    """What was accepted for one model and is not answered, and how fast that model is computed, lately."""

    __slots__ = (
        "busy_seconds",
        "compute_seconds",
        "computed",
        "image_seconds",
        "images",
        "learnt_seconds",
        "rate",
        "requests",
        "seen",
    )

    def __init__(self) -> None:
        self.images = 0
        self.requests = 0
        self.computed = 0  # images since the last `learn_rates`
        self.busy_seconds = 0.0  # for which more waited than is computed, since images were last computed
        self.rate = 0.0  # images a second while more waits than is computed; 0 until that was seen
        self.learnt_seconds = 0.0  # of busy time from which that was learnt, as far as they are remembered
        self.seen = 0.0  # images a second, whether or not more waited
        self.compute_seconds = 0.0  # of a block
        self.image_seconds = 0.0  # of each image in it


class Admission:
    """Counts what waits, learns how fast each model is, and refuses what would not be answered in time.

    `chunk_size` is how many inputs of a request may leave before others have their turn.
    """

    def __init__(self, max_queue: int, chunk_size: int = 1) -> None:
        self.max_queue = max_queue
        self.depth = 0
        """Images that were accepted and are not answered."""
        self._requests = 0
        self._chunk_size = chunk_size
        self._backlogs: dict[Key, Backlog] = {}

    def admit(self, key: Key, images: int, seconds: float) -> None:
        """Refuse now what would not fit into the queue, or would hardly be answered within `seconds`.

        What is within a service's limits is always accepted while nothing of its model waits.

        Raises:
            QueueFull: with the seconds after which the backlog will be gone.
        """
        backlog = self._backlogs.get(key)
        if backlog is None or not backlog.images:
            return
        wait = 0.0
        if backlog.rate:
            # Requests take turns by the chunk: what is ahead is as many of each as this one has, not all they have.
            own_turns = -(-images // self._chunk_size)
            ahead = min(backlog.images, backlog.requests * own_turns * self._chunk_size)
            wait = ahead / backlog.rate + backlog.compute_seconds  # behind the others its own block is computed
        limit = seconds * _MOST_OF_THE_TIME
        if wait <= limit and self._has_room(backlog, images):
            return
        backlog_seconds = backlog.images / backlog.rate if backlog.rate else 0.0
        raise QueueFull(
            f"the queue must have room for {counted(images, 'more image')} and the answer come within {limit:.3g} s. "
            f"Given: {self.depth} of {self.max_queue} wait, for about {wait:.3g} s",
            retry_after_seconds=min(max(1, round(backlog_seconds)), _MAX_RETRY_SECONDS),
        )

    def _has_room(self, backlog: Backlog, images: int) -> bool:
        """Return whether there are places for `images`; in a full queue, for a fair share of it.

        The places are shared equally between the models of which something waits. As many again are kept for requests
        that are smaller than the others: each takes at most its part of what is left. So a queue full of requests of a
        thousand images takes single ones, and one full of single images takes none.
        """
        # A process's part of the queue may be smaller than a request may be.
        needed = min(images, max(1, self.max_queue // 2))
        if self.depth + needed <= self.max_queue:
            return True
        models = sum(1 for other in self._backlogs.values() if other.images)
        if (backlog.images + needed) * models <= self.max_queue:
            return True
        return images * (self._requests + 1) <= 2 * self.max_queue - self.depth

    # What the dispatcher tells

    def backlog(self, key: Key) -> Backlog:
        """Return the backlog of a model, an empty one if nothing has been asked of it."""
        found = self._backlogs.get(key)
        if found is None:
            found = self._backlogs[key] = Backlog()
        return found

    def accepted(self, backlog: Backlog, images: int) -> None:
        """Count a request that was queued."""
        self.depth += images
        self._requests += 1
        backlog.images += images
        backlog.requests += 1

    def finished(self, backlog: Backlog, images: int, *, is_last: bool) -> None:
        """Count images that no longer wait, with the last of which their request ends."""
        self.depth -= images
        self._requests -= is_last
        backlog.images -= images
        backlog.requests -= is_last

    def block_computed(self, key: Key, own_images: int, seconds: float, images: int) -> None:
        """Learn how long a block of `own_images` takes that is computed as one of so many `images`."""
        backlog = self.backlog(key)
        backlog.computed += own_images
        backlog.compute_seconds += (seconds - backlog.compute_seconds) * _SMOOTHING
        backlog.image_seconds += (seconds / images - backlog.image_seconds) * _SMOOTHING

    def learn_rates(self, seconds: float, busy: Set[Key]) -> None:
        """Learn how fast models are computed from the `seconds` since the last call.

        `busy` are those of which more waited all the time than workers could hold, so that what they computed is all
        they can, beside whatever else was asked of them. Others can do at least what they did: without that, a rate
        that was once too low would stay, because with it too little is accepted for a model ever to be busy.
        """
        for key, backlog in self._backlogs.items():
            computed, backlog.computed = backlog.computed, 0
            backlog.seen += (computed / seconds - backlog.seen) * _SMOOTHING
            backlog.busy_seconds = backlog.busy_seconds + seconds if key in busy else 0.0
            if computed and backlog.busy_seconds:
                backlog.learnt_seconds = min(backlog.learnt_seconds + backlog.busy_seconds, _MEMORY_SECONDS)
                weight = min(1.0, backlog.busy_seconds / backlog.learnt_seconds)
                backlog.rate += (computed / backlog.busy_seconds - backlog.rate) * weight
                backlog.busy_seconds = 0.0
            elif backlog.rate and key not in busy:
                backlog.rate = max(backlog.rate, backlog.seen)

    def worker_lost(self) -> None:
        """Learn nothing from the time since images were last computed: a worker that hangs is not a slow one."""
        for backlog in self._backlogs.values():
            backlog.busy_seconds = 0.0

    def keep(self, is_served: Callable[[Key], bool]) -> None:
        """Forget models that are served no longer, once nothing of them waits."""
        self._backlogs = {key: found for key, found in self._backlogs.items() if found.images or is_served(key)}
