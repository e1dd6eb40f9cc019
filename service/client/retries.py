"""The retries of a client: whether to ask again, and when. Of answers it knows only a status and a header."""

from __future__ import annotations

import email.utils
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

RETRIED_STATUSES = frozenset({429, 503})
"""No room and no worker. Any other refusal would be given again."""


@dataclass(frozen=True)
class Retries:
    """A client's policy for retrying one request; `Retries(attempts=1)` never asks twice."""

    attempts: int = 6
    total_seconds: float = 30.0
    first_wait_seconds: float = 0.1
    longest_wait_seconds: float = 5.0
    on_outage: Callable[[str], None] | None = None
    """Hears why before each wait for a service that does not answer or is not ready; to be busy (429) is ordinary."""

    def wait_seconds(self, attempt: int, elapsed_seconds: float, retry_after: str | None = None) -> float | None:
        """Return how long to wait after the `attempt`th failure, or None to give up.

        Twice as long each time, with jitter so that clients that were refused together do not come back together;
        never before the moment that the service names.
        """
        if attempt >= self.attempts:
            return None
        longest = min(self.longest_wait_seconds, self.first_wait_seconds * 2 ** (attempt - 1))
        wait = longest * random.uniform(0.5, 1)  # noqa: S311 - spreads load, guards nothing
        wait += retry_after_seconds(retry_after)
        return wait if elapsed_seconds + wait <= self.total_seconds else None


def retry_after_seconds(header: str | None) -> float:
    """Return the seconds that a Retry-After header asks for, as a number or as a date; 0 if it is neither."""
    if not header:
        return 0.0
    if header.strip().isdecimal():
        return float(header)
    try:
        moment = email.utils.parsedate_to_datetime(header)
    except ValueError:
        return 0.0
    return max(0.0, moment.timestamp() - time.time())
