"""The project's own files agree with each other: versions, commands, workflows and what is packaged."""

from __future__ import annotations

import ast
import pkgutil
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PYTHONS = ["3.11", "3.12", "3.13"]


def run(*command: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, **options)


def direct_dependencies_of(package: str) -> set[str]:
    """Return the top-level modules that a half of the project imports."""
    trees = (ast.parse(file.read_text()) for file in (ROOT / package).rglob("*.py"))
    nodes = [node for tree in trees for node in ast.walk(tree)]
    found = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    found |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    return {name.split(".")[0] for name in found} - sys.stdlib_module_names - {"service", "training"}


def test_the_version_that_make_passes_to_the_images_is_the_packages() -> None:
    built = run("make", "--dry-run", "image").stdout

    assert built.count(f"--build-arg VERSION={PROJECT['version']} ") == 3


def planned(tmp_path: Path, target: str, *variables: str) -> str:
    """What `make` would run in an environment that is not there yet."""
    return run("make", "--dry-run", target, f"VENV={tmp_path}/venv", *variables).stdout


def test_an_installation_says_how_much_it_downloads_and_shows_its_progress(tmp_path: Path) -> None:
    shown = planned(tmp_path, "serve")

    assert shown.index("3.1 GB or more to download") < shown.index("pip install")
    assert "--quiet" not in shown
    assert "--extra-index-url" not in shown


def test_one_variable_installs_torch_without_cuda_and_the_environment_remembers_it(tmp_path: Path) -> None:
    first = planned(tmp_path, "serve", "TORCH=cpu")
    (tmp_path / "venv/lib/python3.12/site-packages/torch-2.14.1+cpu.dist-info").mkdir(parents=True)
    later = planned(tmp_path, "train")

    for shown in (first, later):
        assert "-c constraints.txt --extra-index-url https://download.pytorch.org/whl/cpu -e" in shown
        assert "0.3 GB or more to download" in shown


@pytest.mark.parametrize(("name", "target"), sorted(PROJECT["scripts"].items()))
def test_a_console_script_is_the_same_as_python_m(name: str, target: str, tmp_path: Path) -> None:
    script = tmp_path / name
    module, _, function = target.partition(":")
    script.write_text(f"import sys\nfrom {module} import {function}\nsys.exit({function}())\n")  # as pip writes it

    ours, plain = (
        run(sys.executable, *start, "--help", env={"PYTHONPATH": str(ROOT)})
        for start in ([str(script)], ["-m", module.split(".")[0]])
    )

    assert callable(pkgutil.resolve_name(target))
    assert (ours.returncode, ours.stdout) == (0, plain.stdout)
    assert ours.stdout


@pytest.mark.parametrize("half", ["service", "training"])
def test_users_of_a_half_get_its_types(half: str) -> None:
    packaged = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]

    assert (ROOT / half / "py.typed").exists()
    assert "py.typed" in packaged[half]


def test_every_package_that_the_service_imports_is_declared_by_itself() -> None:
    owners = metadata.packages_distributions()
    extras = PROJECT["optional-dependencies"]
    declared = {
        canonicalize_name(Requirement(text).name)
        for text in [
            *PROJECT["dependencies"],
            *(text for extra in ("grpc", "otel", "gpu", "parquet", "ray", "training") for text in extras[extra]),
        ]
    }

    undeclared = {
        name
        for name in direct_dependencies_of("service") - {"pydantic_core"}  # pydantic pins one exact version of it
        if not declared & {canonicalize_name(owner) for owner in owners[name]}
    }

    assert not undeclared


def test_the_parser_of_what_strangers_send_has_an_upper_bound() -> None:
    requirements = map(Requirement, PROJECT["dependencies"])
    (bounds,) = (requirement.specifier for requirement in requirements if requirement.name == "httptools")

    assert {bound.operator for bound in bounds} == {">=", "<"}


def test_every_package_in_use_has_a_lower_bound_that_the_lowest_run_installs() -> None:
    shown = run(sys.executable, ".ci/lowest_versions.py").stdout.split()
    extras = [text for name, wanted in PROJECT["optional-dependencies"].items() if name != "dev" for text in wanted]

    for requirement in map(Requirement, [*PROJECT["dependencies"], *extras]):
        (lowest,) = (bound for bound in requirement.specifier if bound.operator in (">=", "=="))
        assert f"{requirement.name}=={lowest.version}" in shown


def test_the_pinned_versions_are_allowed() -> None:
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    everything = [
        *PROJECT["dependencies"],
        *(text for extra in PROJECT["optional-dependencies"].values() for text in extra),
    ]

    for requirement in map(Requirement, everything):
        name = canonicalize_name(requirement.name)
        assert name == "argmax" or requirement.specifier.contains(pins[name]), name


def test_the_supported_pythons_are_the_ones_that_the_workflow_runs() -> None:
    allowed = SpecifierSet(PROJECT["requires-python"])
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "check.yml").read_text())
    prefix = "Programming Language :: Python :: 3."

    assert [f"3.{minor}" for minor in range(8, 20) if f"3.{minor}" in allowed] == PYTHONS
    assert [text.rpartition(" ")[2] for text in PROJECT["classifiers"] if text.startswith(prefix)] == PYTHONS
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == PYTHONS


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_an_action_is_pinned_to_a_commit_and_names_its_release(file: Path) -> None:
    used = re.findall(r"uses: (.*)", file.read_text())

    assert used
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action) for action in used)


@pytest.mark.parametrize("name", ["LICENSE", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"])
def test_a_stranger_finds_the_usual_files(name: str) -> None:
    assert (ROOT / name).stat().st_size > 500


def test_the_changelog_tells_of_the_current_version_or_of_what_is_unreleased() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()

    assert f"## [{PROJECT['version']}]" in text or "## [Unreleased]" in text


def test_the_commit_hook_is_make_check() -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]

    assert [hook["entry"] for hook in repository["hooks"]] == ["make check"]
    assert re.search(r"^check:", (ROOT / "Makefile").read_text(), re.MULTILINE)
