"""The command line with the constants of the tests: `python -m tests.training.quickly train ...`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType

from training.cli.command_line import main
from training.publishing import foreign, latency, robustness


def hasten(replace: Callable[[ModuleType, str, float], None] = setattr) -> None:
    """Make what is measured for a manifest brief; pictures of 500 of each kind alone take ten seconds of computing."""
    replace(latency, "SECONDS", 0.001)
    replace(foreign, "PICTURES", 4)
    replace(robustness, "IMAGES", 4)


if __name__ == "__main__":
    hasten()
    sys.exit(main())
