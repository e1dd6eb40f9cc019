from __future__ import annotations

import os
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import ModuleType

import pytest

from service import compiled


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A checkout with one module of which the compiled form is newer, and one that is not compiled."""
    (tmp_path / "setup.py").touch()
    package = tmp_path / "service"
    (package / "http").mkdir(parents=True)
    for name in ("reader.py", f"reader{EXTENSION_SUFFIXES[0]}", "limits.py"):
        (package / "http" / name).touch()
    os.utime(package / "http" / "reader.py", (1, 1))
    return package


def test_a_source_that_changed_after_it_was_compiled_is_named(package: Path) -> None:
    assert compiled.outdated(package) == []

    os.utime(package / "http" / "reader.py")
    os.utime(package / "http" / f"reader{EXTENSION_SUFFIXES[0]}", (1, 1))

    assert compiled.outdated(package) == ["service/http/reader.py"]


def test_the_files_of_an_installed_package_are_not_compared(package: Path) -> None:
    os.utime(package / "http" / f"reader{EXTENSION_SUFFIXES[0]}", (0, 0))
    (package.parent / "setup.py").unlink()

    assert compiled.outdated(package) == []


def test_modules_compiled_for_another_python_are_not_compared(package: Path) -> None:
    (package / "http" / f"reader{EXTENSION_SUFFIXES[0]}").unlink()
    old = package / "http" / "reader.cpython-38-x86_64-linux-gnu.so"
    old.touch()
    os.utime(old, (0, 0))

    assert compiled.outdated(package) == []


def test_the_compiled_modules_that_are_imported_are_told_from_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    suffix = EXTENSION_SUFFIXES[0]
    for name, file in (("one", "one.py"), ("two", f"two{suffix}"), ("native__mypyc", f"native__mypyc{suffix}")):
        module = ModuleType(f"service.{name}")
        module.__file__ = f"/somewhere/service/{file}"
        monkeypatch.setitem(sys.modules, module.__name__, module)

    assert "service.two" in compiled.loaded()
    assert not {"service.one", "service.native__mypyc", "service.compiled"} & set(compiled.loaded())
