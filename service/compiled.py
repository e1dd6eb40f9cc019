"""Which of the service's modules are compiled (setup.py has the list), and whether they are older than their sources.

Knows nothing of what they do. Python prefers a compiled module to the source that lies beside it.
"""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

_FOLDER = Path(__file__).parent
_SUFFIX = EXTENSION_SUFFIXES[0]  # of this version of Python: .cpython-311-x86_64-linux-gnu.so


def loaded() -> list[str]:
    """Return the names of the compiled modules that this process has imported."""
    modules = [(name, module) for name, module in sys.modules.items() if name.startswith("service.")]
    found = [name for name, module in modules if str(getattr(module, "__file__", "")).endswith(_SUFFIX)]
    return sorted(name for name in found if not name.endswith("__mypyc"))  # which holds the code of all


def outdated(folder: Path = _FOLDER) -> list[str]:
    """Return the sources in `folder` that have changed since they were compiled, as paths below it.

    In an installed package all files are as old as the installation, whatever they were made from.
    """
    if not (folder.parent / "setup.py").exists():
        return []
    return sorted(
        str(source.relative_to(folder.parent))
        for source, compiled in _pairs(folder)
        if source.stat().st_mtime > compiled.stat().st_mtime
    )


def _pairs(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Yield each source with the compiled module that Python imports in its place."""
    for compiled in folder.rglob(f"*{_SUFFIX}"):
        name = compiled.name.removesuffix(_SUFFIX)
        source = compiled.with_name(f"{name}.py")
        finder = pkgutil.get_importer(str(compiled.parent))
        found = finder.find_spec(name) if finder else None
        if found and found.origin == str(compiled) and source.exists():
            yield source, compiled
