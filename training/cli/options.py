"""From declared values to command-line options: one --option for each field of a pydantic model, declared nowhere else.

The values stay text; the model parses and bounds them. Knows nothing about what the fields mean.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterable
from typing import Any, NoReturn, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from training.errors import OptionError


class Parser(argparse.ArgumentParser):
    """A parser whose errors are raised, and end as one line like every other error."""

    def __init__(self, **options: Any) -> None:
        # A script that abbreviates would break, or mean something else, when an option is added.
        super().__init__(**{"allow_abbrev": False, **options})

    def error(self, message: str) -> NoReturn:
        """Raise OptionError in place of printing the usage and exiting."""
        raise OptionError(f"{message}. See: {self.prog} --help")


def add_options(
    parser: argparse.ArgumentParser,
    model: type[BaseModel],
    *,
    title: str,
    default: str,
    only: Collection[str] = (),
) -> None:
    """Add a group of options, one for each field of `model`; `default` is said of those without a default.

    With `only`, for these fields alone. An option that is not given leaves no attribute behind, see `given`.
    """
    group = parser.add_argument_group(title)
    for name, field in model.model_fields.items():
        if only and name not in only:
            continue
        option = f"--{name.replace('_', '-')}"
        help_text = f"{field.description} Default: {default.format(default=_shown(field))}".replace("%", "%%")
        kind: dict[str, Any] = {"default": argparse.SUPPRESS, "help": help_text, "dest": name}
        if field.annotation is bool:
            group.add_argument(option, action=argparse.BooleanOptionalAction, **kind)
        elif get_origin(field.annotation) is tuple:
            group.add_argument(option, nargs=len(get_args(field.annotation)), metavar="X", **kind)
        else:
            group.add_argument(option, metavar=_metavar(field), **kind)


def given(arguments: argparse.Namespace, fields: Iterable[str]) -> dict[str, Any]:
    """Return those of `fields` that were on the command line, as text (bool for flags)."""
    return {name: getattr(arguments, name) for name in fields if hasattr(arguments, name)}


def filled(text: str) -> str:
    """Return `text`, the value of an option, unless it is empty, as a script's is whose variable is not set."""
    if not text:
        raise argparse.ArgumentTypeError("it must have a character or more. Given: ''")
    return text


def _metavar(field: FieldInfo) -> str:
    choices = get_args(field.annotation)
    if choices and all(isinstance(choice, str) for choice in choices):
        return "|".join(choices)
    return {int: "N", float: "X"}.get(field.annotation, "TEXT")  # type: ignore[arg-type]


def _shown(field: FieldInfo) -> str:
    value = field.get_default()
    return "on" if value is True else "off" if value is False else "none" if value in (None, "") else str(value)
