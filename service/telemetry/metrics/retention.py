"""The retention of metric series: they are shown for versions on offer, and for a while those of versions that were.

Every version adds some two hundred numbers, and a service that follows a registry sees versions without end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from service.telemetry.metrics.families import Group

GRACE_SECONDS = 900.0
"""Long enough that a scrape finds the last numbers of a version; Prometheus takes a series for gone after 5 minutes."""

MAX_RETIRED = 8
"""Versions of one model that are shown although they have left, in case they change faster than that."""

LIVE_SECONDS = 10.0
"""A version that nobody has mentioned for so long is not on offer: HTTP processes do it every two seconds."""


def shown(seen: Mapping[Group, float], now: float) -> Callable[[Group], bool]:
    """Return whether the series of a model and version are shown, given when each was last mentioned by any process."""
    return _worth(seen, now, GRACE_SECONDS, MAX_RETIRED)


def kept(seen: Mapping[Group, float], now: float) -> Callable[[Group], bool]:
    """Return whether they are still counted. Twice as long: no process may forget what another's reader still shows."""
    return _worth(seen, now, 2 * GRACE_SECONDS, 2 * MAX_RETIRED)


def _worth(seen: Mapping[Group, float], now: float, grace: float, retired: int) -> Callable[[Group], bool]:
    chosen: set[Group] = {("", "")}
    places: dict[str, int] = {}
    for (model, version), time in sorted(seen.items(), key=lambda item: -item[1]):
        if time < now - LIVE_SECONDS:
            places[model] = places.get(model, 0) + 1
            if time < now - grace or places[model] > retired:
                continue
        chosen |= {(model, version), (model, "")}
    return chosen.__contains__
