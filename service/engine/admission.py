"""Which requests one HTTP process accepts: those that fit its queue and can be answered in time."""

from __future__ import annotations

from service.problems import QueueFull

_MAX_RETRY_SECONDS = 60
_SMOOTHING = 0.1  # the weight of the newest measurement in a moving average


class Admission:
    """Counts what waits, learns how fast the workers are, and refuses what would not be answered in time."""

    def __init__(self, max_queue: int) -> None:
        self.max_queue = max_queue
        self.depth = 0
        """Images that were accepted and are not answered."""
        self._answered = 0  # images since the last `learn`
        self._was_busy = False
        self._peak_rate = 0.0  # images a second, lately, of workers that have enough to do
        self._compute_seconds = 0.0  # of a batch, lately

    def admit(self, images: int, seconds: float) -> None:
        """Refuse now what would not fit into the queue, or would not be answered within `seconds`.

        Raises:
            QueueFull: with the seconds after which the backlog will be gone.
        """
        backlog_seconds = self.depth / self._peak_rate if self._peak_rate else 0.0
        computing = self._compute_seconds if backlog_seconds else 0.0  # behind the backlog its own batch is computed
        if self.depth + images <= self.max_queue and backlog_seconds + computing <= seconds:
            return
        raise QueueFull(
            f"the queue must have room for {images} more image(s) and the answer come within {seconds:.3g} s. "
            f"Given: {self.depth} of {self.max_queue} wait, for about {backlog_seconds + computing:.3g} s",
            retry_after_seconds=min(max(1, round(backlog_seconds)), _MAX_RETRY_SECONDS),
        )

    def batch_computed(self, seconds: float) -> None:
        """Learn how long a batch takes."""
        self._compute_seconds += (seconds - self._compute_seconds) * _SMOOTHING

    def images_answered(self, number: int) -> None:
        """Count images that got their predictions."""
        self._answered += number

    def learn_rate(self, seconds: float, *, is_busy: bool) -> None:
        """Learn how fast the workers are from the `seconds` since the last call.

        `is_busy` says whether more waits than connected workers can hold, so that what they answered is all they can.
        """
        if is_busy and self._was_busy:
            rate = self._answered / seconds
            self._peak_rate += (rate - self._peak_rate) * (_SMOOTHING if self._peak_rate else 1.0)
        self._answered, self._was_busy = 0, is_busy
