"""Errors for the person who trains: what is required, what was given, and the remedy.

Knows nothing about who shows them; `exit_code` is the exit code of a command that fails with one.
"""

from __future__ import annotations

from pydantic import ValidationError


class TrainingError(Exception):
    """A reason why training, exporting or publishing cannot go on, for the person who started it."""

    exit_code = 1


class OptionError(TrainingError):
    """An option or setting that is not acceptable; nothing was started."""

    exit_code = 2


class DivergedError(TrainingError):
    """A run whose loss grew instead of falling, as it would again."""


class UnreachableError(TrainingError):
    """A remote service that did not answer but may answer later."""


def option_error(error: ValidationError) -> OptionError:
    """Return the first complaint of `error` as one line that names its option."""
    first = error.errors()[0]
    message = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:  # a rule between several fields already names them
        return OptionError(message)
    option = str(first["loc"][0]).replace("_", "-")
    requirement = message[0].lower() + message[1:]
    return OptionError(f"{option}: {requirement}. Given: {first['input']}")
