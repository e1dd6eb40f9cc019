"""Numbers of things in words."""

from __future__ import annotations


def counted(number: int, thing: str, things: str = "") -> str:
    """Return a number with its noun: "1 file", "2,000 files"; `things` is a plural that takes more than an s."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {things or thing + 's'}"
