"""What can be held of the Dockerfile without an engine: its own rules, and that it agrees with the code."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from service.commands import COMMANDS
from service.settings import Settings
from training.settings import JobSettings

ROOT = Path(__file__).parents[2]


def stages() -> dict[str, tuple[str, list[tuple[str, str]]]]:
    """Each stage's name, what it is built on, and its instructions with their arguments."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.M)
    found: dict[str, tuple[str, list[tuple[str, str]]]] = {}
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        word, _, rest = line.partition(" ")
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            found[name] = (base, [])
        elif word and found:
            found[name][1].append((word, rest))
    return found


def instructions(stage: str) -> dict[str, str]:
    """The instructions that are in force in `stage`, the last of each."""
    base, own = stages()[stage]
    return {**(instructions(base) if base in stages() else {}), **dict(own)}


def environment(stage: str) -> dict[str, str]:
    base, own = stages()[stage]
    pairs = [pair.split("=", 1) for word, rest in own if word == "ENV" for pair in shlex.split(rest)]
    return {**(environment(base) if base in stages() else {}), **dict(pairs)}


def test_the_image_for_serving_is_built_by_default_and_has_no_training_code() -> None:
    built, copied = list(stages()), [rest for word, rest in stages()["service"][1] if word == "COPY"]

    assert built[-1] == "service"
    assert copied == ["--from=build-service /opt/venv /opt/venv", "models models"]
    assert not [rest for word, rest in stages()["build-service"][1] if word == "COPY" and "training" in rest]


def test_the_service_is_compiled_or_not_built_and_no_image_has_the_compiler() -> None:
    installing = {name for name, (_, own) in stages().items() if any("apt-get" in rest for _, rest in own)}

    assert installing == {"build-service"}
    assert any("ARGMAX_COMPILE=1" in rest for word, rest in stages()["build-service"][1] if word == "RUN")
    assert {stages()[image][0] for image in ("service", "bulk", "training")} == {"runtime"}


@pytest.mark.parametrize(("stage", "settings"), [("service", Settings), ("training", JobSettings)])
def test_every_variable_of_ours_is_a_setting(stage: str, settings: type[Settings | JobSettings]) -> None:
    prefix = settings.model_config["env_prefix"]

    ours = {name for name in environment(stage) if name.startswith(("SERVICE_", "TRAINING_"))}

    assert ours
    assert {name.removeprefix(prefix).lower() for name in ours} <= set(settings.model_fields)


@pytest.mark.parametrize("stage", ["service", "training"])
def test_an_image_runs_as_a_number_that_is_not_root_and_stops_on_sigterm(stage: str) -> None:
    said = instructions(stage)

    assert said["USER"] == "10001:10001"  # Kubernetes cannot tell of a name that it is not root
    assert said["STOPSIGNAL"] == "SIGTERM"
    assert json.loads(said["ENTRYPOINT"]) == ["python", "-m", stage]


def test_health_is_asked_by_the_projects_own_command() -> None:
    command = json.loads(instructions("service")["HEALTHCHECK"].partition("CMD ")[2])

    assert command == ["python", "-m", "service", "health"]
    assert "health" in COMMANDS
    assert instructions("service")["EXPOSE"] == environment("service")["SERVICE_PORT"] == "8000"


def test_the_version_and_the_commit_come_from_outside() -> None:
    label = instructions("runtime")["LABEL"]

    assert {("ARG", "VERSION=unknown"), ("ARG", "REVISION=unknown")} <= set(stages()["runtime"][1])
    assert 'image.version="${VERSION}"' in label
    assert 'image.revision="${REVISION}"' in label


@pytest.mark.parametrize("stage", ["service", "training"])
def test_an_image_does_not_ask_for_gpus_itself(stage: str) -> None:
    assert "NVIDIA_VISIBLE_DEVICES" not in environment(stage)
    assert environment(stage)["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility"


def test_what_the_builder_is_given_is_what_is_copied() -> None:
    given = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]

    copied = {
        source
        for _, own in stages().values()
        for word, rest in own
        if word == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    }

    assert copied == set(given)
    assert all((ROOT / name).exists() for name in given)
