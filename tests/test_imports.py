"""The import rules: the registry is all that the two halves share, and folders import in one direction only."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
CONTRACT = {
    f"service.contract.{name}"
    for name in ("lister", "listing", "lock", "manifest", "registries", "registry", "signatures", "store", "variants")
}
SHARED = {
    "service.model.torchscript",
    "service.model.operators",
    "service.model.distributions",
}  # training checks artifacts with the code that serves them, and measures distances as the service does
LEARNT_FROM = {"service.images.decode", "service.problems"}  # what is learnt is made as what is served
COMMAND_LINE = {"service.standard_streams"}  # both halves' commands take leave of their output alike
IMAGES = {
    f"service.images.{name}"
    for name in ("decode", "exif", "fitting", "flattening", "formats", "headers", "mnist", "sheets", "split")
}
OPTIONAL = {"rich", "pyarrow", "ray"}  # the service looks whether they are there


SERVICE_LAYERS = (
    # Each folder may import those to its right, itself, and the modules at the root of service/.
    ("__main__",),
    ("commands",),
    ("processes", "bulk"),
    ("api",),
    ("telemetry", "rollout"),  # side by side: neither imports the other
    ("engine",),
    ("model", "images", "http"),
    ("contract",),
)
TRAINING_LAYERS = (
    ("__main__",),
    ("cli",),
    ("job",),
    ("pipeline",),
    ("publishing",),
    ("recipes", "adaptation"),
    ("recipe",),
    ("learning",),
    ("data", "networks"),
)
STANDALONE = {"client"}  # imports nothing of ours; only commands use it


def modules_of(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports_of(file: Path) -> Iterator[str]:
    """Every module that `file` imports, wherever in it: `from service.images import mnist` is service.images.mnist."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively, which this test does not follow"
            module = node.module or ""
            folder = ROOT.joinpath(*module.split("."))
            for alias in node.names:
                inside = (folder / f"{alias.name}.py").exists() or (folder / alias.name / "__init__.py").exists()
                yield f"{module}.{alias.name}" if inside else module


def unit_of(module: str) -> str:
    """The folder of its half that a module is in, or the module's own name if it lies at the root of its half."""
    return module.split(".")[1] if "." in module else ""


def modules_imported_by(file: Path) -> set[str]:
    """Those of our own modules that `file` imports."""
    return {name for name in imports_of(file) if name.split(".")[0] in ("service", "training")}


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules_loaded_by(statement: str) -> set[str]:
    """The modules in a fresh interpreter after `statement`."""
    code = f"{statement}\nimport sys\nprint('\\n'.join(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    return set(run.stdout.split())


def of_the_service(loaded: set[str]) -> set[str]:
    """The modules among `loaded` that are files of the service, not its folders."""
    return {name for name in loaded if name.count(".") > 1 and name.startswith("service.")}


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
    file.write_text("import a.b, c\nfrom d.e import f\ndef g():\n    from service.contract import manifest\n")

    assert set(imports_of(file)) == {"a.b", "c", "d.e", "service.contract.manifest"}


def test_there_is_something_to_scan() -> None:
    assert ROOT / "service" / "contract" / "registry.py" in modules_of("service")
    assert ROOT / "training" / "learning" / "trainer.py" in modules_of("training")


@pytest.mark.parametrize("file", modules_of("service"), ids=lambda file: str(file.relative_to(ROOT)))
def test_the_service_never_imports_training(file: Path) -> None:
    assert not [name for name in imports_of(file) if name.split(".")[0] == "training"]


@pytest.mark.parametrize("file", modules_of("training"), ids=lambda file: str(file.relative_to(ROOT)))
def test_training_imports_nothing_of_the_service_but_the_contract_and_the_decoding_of_pictures(file: Path) -> None:
    assert {name for name in imports_of(file) if name.split(".")[0] == "service"} <= (
        CONTRACT | SHARED | LEARNT_FROM | COMMAND_LINE
    )


@pytest.mark.parametrize(("half", "layers"), [("service", SERVICE_LAYERS), ("training", TRAINING_LAYERS)])
def test_folders_import_only_folders_below_them(half: str, layers: tuple[tuple[str, ...], ...]) -> None:
    level = {unit: depth for depth, units in enumerate(layers) for unit in units}
    wrong = []
    for file in modules_of(half):
        importer = unit_of(module_name(file))
        for module in sorted(modules_imported_by(file)):
            imported = unit_of(module)
            if not module.startswith(f"{half}.") or imported == importer:
                continue
            if imported in STANDALONE:
                allowed = importer == "commands"
            elif importer in level:
                allowed = imported not in level or level[importer] < level[imported]
            else:  # a module at the root, which everything may import
                allowed = imported not in level
            if not allowed:
                wrong.append(f"{module_name(file)} imports {module}")

    assert not wrong


@pytest.mark.parametrize("half", ["service", "training"])
def test_every_folder_has_a_place_in_the_order_and_says_what_it_is_for(half: str) -> None:
    layers = {"service": SERVICE_LAYERS, "training": TRAINING_LAYERS}[half]
    known = {unit for units in layers for unit in units} | STANDALONE
    folders = {file.parent.relative_to(ROOT / half).parts[0] for file in modules_of(half) if file.parent != ROOT / half}

    assert folders <= known
    for folder in modules_of(half):
        if folder.name == "__init__.py":
            assert ast.get_docstring(ast.parse(folder.read_text())), f"{folder} says nothing"


@pytest.mark.parametrize("half", ["service", "training"])
def test_no_modules_import_each_other_in_a_circle(half: str) -> None:
    graph = {module_name(file): modules_imported_by(file) - {module_name(file)} for file in modules_of(half)}

    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {error.args[1]}")


@pytest.mark.parametrize(("half", "extras"), [("service", ("grpc", "otel")), ("training", ("training",))])
def test_a_half_imports_only_what_is_installed_with_it(half: str, extras: tuple[str, ...]) -> None:
    owners = metadata.packages_distributions()
    there = installed_with(*extras)

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

    own = {"cryptography"} if name == "service.contract.signatures" else set()  # which the module loads when it signs
    assert tops - {"service"} <= {"pydantic", "fsspec"} | own | sys.stdlib_module_names
    assert {imported for imported in imports_of(file) if imported.startswith("service")} <= CONTRACT


@pytest.mark.parametrize("name", sorted(SHARED))
def test_what_training_shares_of_models_imports_torch_numpy_and_the_contract_alone(name: str) -> None:
    imports = set(imports_of(ROOT / f"{name.replace('.', '/')}.py"))

    assert {top for top in (name.split(".")[0] for name in imports) if top != "service"} <= {
        "torch",
        "numpy",
        *sys.stdlib_module_names,
    }
    assert {name for name in imports if name.startswith("service")} <= CONTRACT | SHARED


def test_importing_the_contract_loads_neither_torch_nor_a_server_nor_training() -> None:
    loaded = modules_loaded_by("import service.contract.manifest, service.contract.registries")

    assert not loaded & {"torch", "torchvision", "numpy", "litserve", "fastapi", "uvicorn", "PIL", "training"}
    assert "cryptography" not in loaded
    assert of_the_service(loaded) == CONTRACT


def test_the_command_line_of_training_loads_no_server_no_plots_and_no_torchvision() -> None:
    loaded = modules_loaded_by("import training.cli.command_line")

    assert not loaded & {"litserve", "fastapi", "uvicorn", "torchvision", "sklearn", "matplotlib"}
    assert not loaded & {"torch._dynamo", "torch._inductor", "sympy"}
    assert of_the_service(loaded) == CONTRACT | SHARED | IMAGES
