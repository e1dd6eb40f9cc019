"""The errors that a person who trains can put right: what is required, then what was given, and the remedy.

Knows nothing about who shows them; `exit_code` is what a command line ends with.
"""

from __future__ import annotations

from pydantic import ValidationError


class TrainingError(Exception):
    """Training, exporting or publishing cannot go on; the message is for the person who started it."""

    exit_code = 1


class OptionError(TrainingError):
    """An option or a setting that cannot be accepted: nothing was started."""

    exit_code = 2


class UnreachableError(TrainingError):
    """Something elsewhere did not answer, and may another time."""


def option_error(error: ValidationError) -> OptionError:
    """The first complaint of `error` as one line, in the words of the option that it is about."""
    first = error.errors()[0]
    message = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:  # a rule between several fields already names them
        return OptionError(message)
    option = str(first["loc"][0]).replace("_", "-")
    requirement = message[0].lower() + message[1:]
    return OptionError(f"{option}: {requirement}. Given: {first['input']}")
