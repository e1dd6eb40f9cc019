"""The restart policy: whether a worker that died is replaced, and how soon. Knows nothing about processes.

A lasting fault (memory, device) kills workers repeatedly, and no replacement repairs it. So the first deaths in a row
are replaced at once, further ones after growing delays, and a long row ends the service. A worker that served well in
between breaks the row: the service is useful, and goes on as long as that holds. A death while a model was computed is
that model's, which the quarantine ends: such deaths are a row of their own, which delays and never ends the service.
"""

from __future__ import annotations

from typing import NamedTuple

from service.counting import counted
from service.settings import Settings

HOPELESS = 3
"""The exit code of a worker for which another start would fail in the same way."""

UNSOUND = 4
"""The exit code of a worker whose self-test failed."""

OVERSIZED = 5
"""The exit code of a worker that held more memory than it may."""

_SOUND_SECONDS = 10.0
_SOUND_BATCHES = 10
_AT_ONCE = 3
FIRST_WAIT_SECONDS = 0.25
_LONGEST_WAIT_SECONDS = 5.0


class ServiceFailed(Exception):
    """The service cannot go on; the message says why."""


class Life(NamedTuple):
    """The life of a worker that died."""

    came_up: bool  # it had finished loading
    seconds: float  # since it came up
    batches: int  # that it had answered
    exit_code: int | None
    computed: str = ""  # the identity of the version that it was computing

    @property
    def is_sound(self) -> bool:
        """Whether it served long enough to show that workers can."""
        return self.came_up and (self.seconds >= _SOUND_SECONDS or self.batches >= _SOUND_BATCHES)


class RestartPolicy:
    """Tracks each worker's failures and decides whether, and when, to restart it."""

    def __init__(self, settings: Settings, *, first_wait_seconds: float = FIRST_WAIT_SECONDS) -> None:
        self._first_wait_seconds = first_wait_seconds
        self._max_failed_starts = settings.max_failed_starts
        self._max_short_lives = settings.max_short_lives
        self._failed_starts: dict[int, int] = {}
        self._short_lives: dict[int, int] = {}
        self._blamed_lives: dict[int, int] = {}

    def wait_after(self, number: int, life: Life) -> float:
        """Return the seconds to wait before the worker `number`, which lived this life, is replaced.

        Raises:
            ServiceFailed: it must not be replaced.
        """
        if not life.came_up:
            failures = self._failed_starts[number] = self._failed_starts.get(number, 0) + 1
            if life.exit_code == HOPELESS or failures >= self._max_failed_starts:
                raise ServiceFailed(
                    f"worker {number} failed to start {counted(failures, 'time')} in a row, last with exit code "
                    f"{life.exit_code}; its own message is above"
                )
            return 0.0
        self._failed_starts[number] = 0
        if life.is_sound:
            self._short_lives[number] = self._blamed_lives[number] = 0
            return 0.0
        if life.computed:
            blamed = self._blamed_lives[number] = self._blamed_lives.get(number, 0) + 1
            return self._wait(blamed)
        deaths = self._short_lives[number] = self._short_lives.get(number, 0) + 1
        if deaths >= self._max_short_lives:
            raise ServiceFailed(
                f"worker {number} died {counted(deaths, 'time')} in a row before it had served for "
                f"{_SOUND_SECONDS:g} s or answered {_SOUND_BATCHES} batches, last with exit code {life.exit_code}"
            )
        return self._wait(deaths)

    def _wait(self, deaths: int) -> float:
        if deaths <= _AT_ONCE:
            return 0.0
        return min(_LONGEST_WAIT_SECONDS, self._first_wait_seconds * 2.0 ** (deaths - _AT_ONCE - 1))
