"""The import rule: the registry is all that the two halves share."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
CONTRACT = {"service.forms", "service.manifest", "service.registry", "service.turns"}
PROVED = {"service.torchscript"}  # what training proves an artifact with must be what serves it
OPTIONAL = {"rich"}  # the service looks whether it is there


def modules_of(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports_of(file: Path) -> Iterator[str]:
    """Every module that `file` imports, wherever in it: `from service import manifest` is service.manifest."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively, which this test does not follow"
            if node.module in ("service", "training"):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
            else:
                yield node.module or ""


def modules_loaded_by(statement: str) -> set[str]:
    """The modules in a fresh interpreter after `statement`."""
    code = f"{statement}\nimport sys\nprint('\\n'.join(sys.modules))"
    return set(
        subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT
        ).stdout.split()
    )


def installed_with(*extras: str) -> set[str]:
    """The distributions that `pip install 'argmax[...]'` brings, by their own names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    found: set[tuple[str, frozenset[str]]] = set()

    def add(requirements: list[str], chosen: set[str]) -> None:
        for requirement in map(Requirement, requirements):
            asked = canonicalize_name(requirement.name), frozenset(requirement.extras)
            wanted = not requirement.marker or any(requirement.marker.evaluate({"extra": e}) for e in {"", *chosen})
            if wanted and asked not in found:
                found.add(asked)
                add(metadata.requires(requirement.name) or [], requirement.extras)

    add([*project["dependencies"], *(text for extra in extras for text in optional[extra])], set())
    return {name for name, _ in found}


def test_the_scan_sees_every_form_of_import(tmp_path: Path) -> None:
    file = tmp_path / "forms.py"
    file.write_text("import a.b, c\nfrom d.e import f\ndef g():\n    from service import manifest\n")

    assert set(imports_of(file)) == {"a.b", "c", "d.e", "service.manifest"}


def test_there_is_something_to_scan() -> None:
    assert ROOT / "service" / "registry.py" in modules_of("service")
    assert ROOT / "training" / "trainer.py" in modules_of("training")


@pytest.mark.parametrize("file", modules_of("service"), ids=lambda file: str(file.relative_to(ROOT)))
def test_the_service_never_imports_training(file: Path) -> None:
    assert not [name for name in imports_of(file) if name.split(".")[0] == "training"]


@pytest.mark.parametrize("file", modules_of("training"), ids=lambda file: str(file.relative_to(ROOT)))
def test_training_imports_nothing_of_the_service_but_the_contract(file: Path) -> None:
    assert {name for name in imports_of(file) if name.split(".")[0] == "service"} <= CONTRACT | PROVED


@pytest.mark.parametrize(("half", "extra"), [("service", "grpc"), ("training", "training")])
def test_a_half_imports_only_what_is_installed_with_it(half: str, extra: str) -> None:
    owners = metadata.packages_distributions()
    there = installed_with(extra)

    imported = {name.split(".")[0] for file in modules_of(half) for name in imports_of(file)}
    lacking = {
        name
        for name in imported - sys.stdlib_module_names - {"service", "training"} - OPTIONAL
        if not there & {canonicalize_name(owner) for owner in owners[name]}
    }

    assert not lacking


@pytest.mark.parametrize("name", sorted(CONTRACT))
def test_the_contract_imports_only_pydantic_fsspec_and_the_standard_library(name: str) -> None:
    file = ROOT / f"{name.replace('.', '/')}.py"

    tops = {imported.split(".")[0] for imported in imports_of(file)}

    assert tops - {"service"} <= {"pydantic", "fsspec"} | sys.stdlib_module_names
    assert {imported for imported in imports_of(file) if imported.startswith("service")} <= CONTRACT


@pytest.mark.parametrize("name", sorted(PROVED))
def test_what_runs_an_artifact_imports_torch_and_the_contract_alone(name: str) -> None:
    imports = set(imports_of(ROOT / f"{name.replace('.', '/')}.py"))

    assert {top for top in (name.split(".")[0] for name in imports) if top != "service"} <= {
        "torch",
        *sys.stdlib_module_names,
    }
    assert {name for name in imports if name.startswith("service")} <= CONTRACT


def test_importing_the_contract_loads_neither_torch_nor_a_server_nor_training() -> None:
    loaded = modules_loaded_by("import service.manifest, service.registry")

    assert not loaded & {"torch", "torchvision", "numpy", "litserve", "fastapi", "uvicorn", "PIL", "training"}
    assert {name for name in loaded if name.startswith("service.")} == CONTRACT


def test_the_command_line_of_training_and_its_first_step_load_no_server_and_no_compiler() -> None:
    loaded = modules_loaded_by(
        "import torch, training.command_line\n"
        "from training.optimisers import build_optimiser\n"
        "from training.recipes import find\n"
        "weight = torch.nn.Parameter(torch.zeros(2))\n"
        "weight.sum().backward()\n"
        "build_optimiser([weight], find('neural_net').hyper, steps=1).step()"
    )

    assert not loaded & {"litserve", "fastapi", "uvicorn", "torchvision", "sklearn", "matplotlib"}
    assert not loaded & {"torch._dynamo", "torch._inductor", "sympy"}
    assert {name for name in loaded if name.startswith("service.")} == CONTRACT | PROVED
