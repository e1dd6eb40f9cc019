"""The classes of the user's own data: checked before anything is decoded or trained. Knows nothing about files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence

from service.contract.manifest import MOST_CHARACTERS
from training.errors import OptionError

LEAST = 2
"""Examples of a class: one to learn from, one to test on."""
_SHOWN = 3
_SHOWN_CHARACTERS = 40


def classes_of(labels: Sequence[str], *, where: object, kind: str) -> tuple[str, ...]:
    """Return the different `labels`, sorted, numbers by value; `kind` is what holds a class's examples.

    Raises:
        OptionError: there are fewer than two classes, or a class has fewer than two examples or an unusable name.
    """
    counts = Counter(labels)
    for name in counts:
        expect_name(name, f"the name of a class in {where}")
    classes = tuple(sorted(counts, key=lambda name: (len(name), name) if name.isdigit() else (99, name)))
    if len(classes) < 2:
        given = f"one class, {_in_short(classes[0])}" if classes else "none"
        raise OptionError(f"{where} must hold two or more classes, each {kind}. Given: {given}")
    alone = [name for name in classes if counts[name] < LEAST]
    if alone:
        raise OptionError(
            f"each class in {where} must have {LEAST} examples or more, to learn from and to test on. "
            f"Given: one of {listed(alone)}"
        )
    return classes


def expect_name(text: str, what: str) -> None:
    """Raise OptionError for a name that a manifest cannot hold: too long, or from bytes that are no UTF-8."""
    if len(text) > MOST_CHARACTERS:
        raise OptionError(f"{what} must have at most {MOST_CHARACTERS} characters. Given: {len(text)}, {text[:20]}...")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise OptionError(f"{what} must be UTF-8. Given: {os.fsencode(text)!r}. Rename it.") from error


def listed(names: Iterable[str]) -> str:
    """Return the first names, and how many more there are."""
    names = [_in_short(name) for name in names]
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _in_short(name: str) -> str:
    """Return a name in a line: where a quote is not closed, a table's field is all that follows it."""
    line = " ".join(name.split())
    return line if len(line) <= _SHOWN_CHARACTERS else f"{line[:_SHOWN_CHARACTERS]}..."
