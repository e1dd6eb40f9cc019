"""Have this process import the sources of the service, although compiled modules may lie beside them.

Fakes are not instances of compiled classes, and coverage sees only sources. `tests/__init__.py` puts this folder on the
path of every process that tests start, and Python imports a module of this name first.
"""

from __future__ import annotations

import sys
from importlib.machinery import SOURCE_SUFFIXES, FileFinder, SourceFileLoader
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.abc import PathEntryFinder

_SERVICE = f"{__file__.removesuffix('tests/interpreted/sitecustomize.py')}service/"
_sources = FileFinder.path_hook((SourceFileLoader, SOURCE_SUFFIXES))


def _only_sources(folder: str) -> PathEntryFinder:
    if not f"{folder}/".startswith(_SERVICE):
        raise ImportError("a folder for the other hooks", path=folder)
    return _sources(folder)


sys.path_hooks.insert(0, _only_sources)
