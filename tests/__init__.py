"""The tests of both halves. They run the sources of the service; with TEST_COMPILED=1, what is compiled of it.

Benchmarks import from here, too, and measure what a user would start.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

_hook, _path = str(Path(__file__).parent / "interpreted"), os.environ.get("PYTHONPATH", "")
if "pytest" in sys.modules and not os.environ.get("TEST_COMPILED") and _hook not in _path:
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (_hook, _path)))
    importlib.import_module("tests.interpreted.sitecustomize")
