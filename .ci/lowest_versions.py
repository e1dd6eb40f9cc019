"""Print constraints for `make test-lowest`: the lowest version that pyproject.toml allows of each package.

What only the tests and linters need stays at the versions in constraints.txt. Everything else is left to pip.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9._-]+)(?:\[[^]]*\])?(?:==|>=)(?P<version>[0-9.]+)")


def lowest_versions(project: dict[str, Any]) -> Iterator[str]:
    """Yield "name==version" for each package that users of the service or of training install."""
    optional = project["optional-dependencies"]
    extras = [requirement for name, wanted in optional.items() if name != "dev" for requirement in wanted]
    for requirement in [*project["dependencies"], *extras]:
        found = REQUIREMENT.match(requirement)
        if not found:
            raise SystemExit(f'a requirement must say ">=" or "==" and a version. Given: {requirement}')
        yield f"{found['name']}=={found['version']}"


def pinned_tools(project: dict[str, Any], constraints: str) -> Iterator[str]:
    """Yield the lines of constraints.txt for the packages that only developers install."""
    optional = project["optional-dependencies"]
    wanted = {_normal(match["name"]) for text in optional["dev"] if (match := REQUIREMENT.match(text))}
    for line in constraints.splitlines():
        if _normal(line.partition("==")[0]) in wanted:
            yield line


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    read = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*lowest_versions(read), *pinned_tools(read, (ROOT / "constraints.txt").read_text())]
    print("\n".join(lines))  # noqa: T201 - what the command is for
