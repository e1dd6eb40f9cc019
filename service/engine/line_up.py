"""The line-up of a worker: the models that it should serve, with their aliases, and the versions that it does not."""

from __future__ import annotations

from typing import NamedTuple

from service.engine.absent import Absent
from service.model.model import Model


class Entry(NamedTuple):
    """A version in the line-up; the default one answers when a request names no version."""

    model: Model
    default: bool
    aliases: tuple[str, ...]


class LineUp(NamedTuple):
    """The versions that a worker should serve, and those in the registry that it does not."""

    served: tuple[Entry, ...]
    absent: tuple[Absent, ...] = ()
