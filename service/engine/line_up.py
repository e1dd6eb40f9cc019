"""What a worker serves: models with their aliases, and the versions that it does not serve."""

from __future__ import annotations

from typing import NamedTuple

from service.engine.messages import Absent
from service.model.model import Model


class Served(NamedTuple):
    """A version in the line-up; the default answers when a request names no version."""

    model: Model
    default: bool
    aliases: tuple[str, ...]


class LineUp(NamedTuple):
    """What a worker serves, and what it does not though it is in the registry."""

    served: tuple[Served, ...]
    absent: tuple[Absent, ...] = ()
