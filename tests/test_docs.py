"""What the documentation names exists: files, links, modules, commands, targets and settings."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.problems import Problem
from service.settings import Settings
from service.telemetry.metrics.families import FAMILIES, Kind
from tests.k8s.conftest import kustomize, pod_templates
from training.hyper_parameters import HyperParameters
from training.settings import JobSettings

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
TOP = {path.name for path in ROOT.iterdir()}
GENERATED = {".venv", ".venv-lowest", "data", "runs", ".peers"}
SHIPPED = {path.parts[-3]: int(path.parts[-2]) for path in (ROOT / "models").glob("*/[0-9]*/manifest.json")}
OTHER_OPTIONS = {"help", "images-per-second", "requests-per-second"}  # argparse's, and two that `keys` makes
OTHER_OPTIONS |= {
    "build-arg",
    "cap-drop",
    "gpus",
    "read-only",
    "tmpfs",
    "logdir",
    "nproc-per-node",
}  # of other programs
OTHER_SETTINGS = {"SERVICE_URL"}  # of the commands that ask a service

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def paths_in(text: str) -> set[str]:
    """Return what looks like a path of this repository in backticks: `service/settings.py`, `k8s/base/`."""
    quoted = re.findall(r"`([\w.-]+(?:/[\w.-]+)+/?|[\w-]+\.(?:py|yaml|toml|js))`", text)
    return {path for path in quoted if "/" not in path or path.split("/")[0] in TOP - GENERATED}


def anchors_of(page: Path) -> set[str]:
    """Return the anchors that a forge makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_a_path_in_backticks_exists(page: Path) -> None:
    missing = {path for path in paths_in(page.read_text()) if "/" in path and not (ROOT / path).exists()}
    missing |= {name for name in paths_in(page.read_text()) if "/" not in name and not any(ROOT.rglob(name))}

    assert not missing


def test_a_path_that_does_not_exist_is_found() -> None:
    assert paths_in("`service/nowhere.py`, `k8s/base/`, `image/png`, `python -m service`") == {
        "service/nowhere.py",
        "k8s/base/",
    }


@every_page
def test_a_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        assert not anchor or anchor in anchors_of(there), target


@every_page
def test_a_module_a_target_and_a_setting_exist(page: Path) -> None:
    text = page.read_text()
    makefile = (ROOT / "Makefile").read_text()
    known = {f"SERVICE_{name.upper()}" for name in Settings.model_fields} | OTHER_SETTINGS
    known |= {f"TRAINING_{name.upper()}" for name in JobSettings.model_fields}

    modules = set(re.findall(r"python -m ((?:service|training|benchmarks)(?:\.\w+)*)", text))
    targets = set(re.findall(r"(?:^|`|&& )make ([a-z][a-z-]*)", text, re.MULTILINE))
    settings = set(re.findall(r"\b(?:SERVICE|TRAINING)_[A-Z_]*[A-Z]\b", text))

    assert all(importlib.util.find_spec(module) for module in modules)
    assert {target for target in targets if not re.search(rf"^{target}:", makefile, re.MULTILINE)} == set()
    assert settings <= known


def test_every_setting_is_in_some_page() -> None:
    text = "".join(page.read_text() for page in PAGES if page.name != "CHANGELOG.md")
    options = set(re.findall(r"--([a-z][a-z-]+)", text))
    variables = set(re.findall(r"\b(?:SERVICE|TRAINING)_([A-Z_]+)", text))

    for kind in (Settings, JobSettings):
        assert {
            n for n in kind.model_fields if n.replace("_", "-") not in options and n.upper() not in variables
        } == set()


@every_page
def test_an_option_exists(page: Path) -> None:
    sources = [*(ROOT / "service" / "commands").glob("*.py"), *(ROOT / "training" / "cli").glob("*.py")]
    sources += [*(ROOT / "benchmarks").rglob("*.py"), ROOT / "tests" / "conftest.py"]
    known = set(re.findall(r'"--([a-z][a-z0-9-]+)', "".join(source.read_text() for source in sources)))
    for kind in (Settings, JobSettings, HyperParameters):
        known |= {name.replace("_", "-") for name in kind.model_fields}
    known |= {f"no-{name}" for name in known}

    named = set(re.findall(r"(?<![\w-])--([a-z][a-z0-9-]+)", page.read_text()))

    assert named - known - OTHER_OPTIONS == set()


def test_every_benchmark_is_in_the_table_of_commands() -> None:
    table = (ROOT / "docs" / "benchmarks.md").read_text().partition("## Running the benchmarks")[2]
    scripts = {
        path.stem for path in (ROOT / "benchmarks").glob("*.py") if 'if __name__ == "__main__"' in path.read_text()
    }
    scripts = scripts - {"tutorial"} | {"serving"}  # a part of `training`, and a folder

    assert scripts == set(re.findall(r"^\| .*?`python -m benchmarks\.(\w+)", table, re.MULTILINE))


def versions_in(text: str) -> set[str]:
    """Return the shipped models that an example speaks of, each as name@version."""
    names = "|".join(SHIPPED)
    forms = (
        rf"(?<!published )\b({names})@(\d+)",
        rf'"model": ?"({names})", ?"version": ?"?(\d+)',
        rf'model="({names})",(?:stage="\w+",)?version="(\d+)"',
        rf"/({names})/(\d+)\b",
        rf"model='({names})',\s*#?\s*version=(\d+)",
        rf",({names}),(\d+),",  # a row of `python -m service classify`
        rf"\b({names}) +(\d+) {{3,}}",  # a row of `python -m service models`
        rf'--model,? ({names}),? --version,? "?(\d+)',
    )
    return {f"{name}@{version}" for form in forms for name, version in re.findall(form, text)}


def test_examples_are_of_the_versions_that_are_shipped() -> None:
    pages = "".join(page.read_text() for page in PAGES if page.parent.name != "lessons")
    examples = re.findall(r"^```\w+\n(.*?)^```", pages, re.MULTILINE | re.DOTALL)
    manifests = [path.read_text() for path in (ROOT / "k8s").rglob("*.yaml")]

    shown = versions_in("\n".join([*examples, *manifests]))

    assert len(shown) == len(SHIPPED)
    assert shown <= {f"{name}@{version}" for name, version in SHIPPED.items()}


def test_every_metric_is_described_once_and_no_other() -> None:
    table = (ROOT / "docs" / "observability.md").read_text()
    described = re.findall(r"^\| `((?:inference|argmax)_\w+)` \| (\w+) \| ([\w, ]*?) ?\|", table, re.MULTILINE)

    assert sorted(described) == sorted(
        (
            f"{name}_total" if family.kind == Kind.COUNTER else name,
            family.kind.value if family.kind in (Kind.COUNTER, Kind.HISTOGRAM) else "gauge",
            ", ".join(family.labels),
        )
        for name, family in FAMILIES.items()
    )


def test_every_status_of_a_refusal_is_in_the_table_of_errors() -> None:
    table = (ROOT / "docs" / "api.md").read_text().partition("## Errors")[2].partition("\n## ")[0]
    listed = {int(status) for row in re.findall(r"^\| ([\d, ]+) \|", table, re.MULTILINE) for status in row.split(", ")}

    assert listed == {problem.status for problem in Problem.__subclasses__()} - {500}


def test_each_promise_about_security_is_held_by_a_test_that_exists() -> None:
    text = (ROOT / "docs" / "security.md").read_text()
    promises = re.findall(r"^\| .* \| (`tests/.*) \|$", text, re.MULTILINE)
    held_by = [part for promise in promises for part in promise.split("; ")]

    assert len(promises) > 20
    for part in held_by:
        path, *names = re.findall(r"`([^`]+)`", part)
        defined = re.findall(r"^def (\w+)\(", (ROOT / path).read_text(), re.MULTILINE)
        assert names
        assert set(names) <= set(defined), part


def test_the_map_of_the_code_has_every_folder() -> None:
    tree = (ROOT / "docs" / "architecture.md").read_text().partition("## The folders")[2].partition("\n## ")[0]
    folders = {path.parent.name for half in ("service", "training") for path in (ROOT / half).glob("*/__init__.py")}

    assert {name for name in folders | {"page"} if f"{name}/ " not in tree} == set()


def test_the_index_has_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text()

    assert set(re.findall(r"\]\((\w+\.md)\)", index)) == {page.name for page in (ROOT / "docs").glob("*.md")} - {
        "README.md"
    }


def patches_in(page: str, word: str) -> list[dict[str, Any]]:
    """Return the patches of the one YAML block in a page of docs/ that has `word` and patches."""
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)
    (found,) = (yaml.safe_load(block)["patches"] for block in blocks if word in block and "patches:" in block)
    patches: list[dict[str, Any]] = found
    return patches


def test_the_patch_for_another_port_of_the_bucket_opens_it_for_the_service_and_the_job() -> None:
    components = ["components/registry-bucket", "components/training-to-bucket"]
    patches = patches_in("deploy.md", "to-bucket")

    manifests = kustomize({"resources": ["base", "training"], "components": components})
    patched = kustomize({"resources": ["base", "training"], "components": components, "patches": patches})

    before, after = (
        {m["metadata"]["name"]: m["spec"]["egress"] for m in found if m["metadata"]["name"].endswith("-to-bucket")}
        for found in (manifests, patched)
    )
    assert len(before) == 2
    assert after == {name: [*egress, {"ports": [{"port": 8333}]}] for name, egress in before.items()}


def test_the_patch_for_traces_lets_the_service_and_nobody_else_reach_the_collector() -> None:
    patches = patches_in("observability.md", "4318")

    before = kustomize({"resources": ["overlays/production"]})
    after = kustomize({"resources": ["overlays/production"], "patches": patches})

    (changed,) = [policy for policy in after if policy not in before]
    assert (changed["kind"], changed["metadata"]["name"]) == ("NetworkPolicy", "argmax")
    (rule,) = changed["spec"]["egress"]
    assert [port["port"] for port in rule["ports"]] == [53, 53, 4318]


def test_the_patch_for_mig_in_the_docs_replaces_the_whole_gpu() -> None:
    manifests = kustomize({"resources": ["overlays/production-gpu"], "patches": patches_in("deploy.md", "mig-")})

    (container,) = pod_templates(manifests)["Deployment"]["spec"]["containers"]
    for kind in ("requests", "limits"):
        gpus = {name: count for name, count in container["resources"][kind].items() if "nvidia.com" in name}
        assert gpus == {"nvidia.com/mig-1g.10gb": "1"}
