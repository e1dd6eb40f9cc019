"""KServe takes the runtime and the example, and the service takes what the runtime gives it."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from service.commands.serve import read_settings
from service.processes.supervisor import KILL_SECONDS
from tests.k8s.conftest import Manifest, kustomize, of_kind

DEFAULT_GRACE_SECONDS = 30
"""Kubernetes' terminationGracePeriodSeconds, which a ServingRuntime cannot set."""
DEFINITIONS = Path(os.environ.get("KSERVE_CRDS", "nowhere"))


@pytest.fixture(scope="module")
def manifests() -> tuple[Manifest, ...]:
    return kustomize({"resources": ["kserve"]})


@pytest.fixture(scope="module")
def pod(manifests: tuple[Manifest, ...]) -> Manifest:
    """The pod that KServe makes of the runtime, as far as it takes it from there."""
    (runtime,) = of_kind(manifests, "ServingRuntime")
    spec: Manifest = runtime["spec"]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "digits", "annotations": spec["annotations"]},
        "spec": {"containers": spec["containers"], "volumes": spec["volumes"]},
    }


@pytest.mark.skipif(not DEFINITIONS.exists(), reason="needs KSERVE_CRDS, the folder config/crd/full of KServe")
@pytest.mark.parametrize("kind", ["ServingRuntime", "InferenceService"])
def test_the_definition_takes_every_field(manifests: tuple[Manifest, ...], kind: str) -> None:
    (manifest,) = of_kind(manifests, kind)
    definition = yaml.safe_load((DEFINITIONS / f"serving.kserve.io_{kind.lower()}s.yaml").read_text())
    wanted = manifest["apiVersion"].partition("/")[2]
    (version,) = (found for found in definition["spec"]["versions"] if found["name"] == wanted)
    schema = exact(copy.deepcopy(version["schema"]["openAPIV3Schema"]))
    schema["properties"]["metadata"] = {"type": "object"}
    misspelt = manifest | {"spec": manifest["spec"] | {"protocolVersion": "v2"}}

    jsonschema.Draft7Validator(schema).validate(manifest)

    assert list(jsonschema.Draft7Validator(schema).iter_errors(misspelt))


def exact(schema: dict[str, Any]) -> dict[str, Any]:
    """Make a schema refuse fields that it does not name, which an API server would drop."""
    if schema.get("x-kubernetes-int-or-string"):
        schema.pop("type", None)
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema["additionalProperties"] = False
    for inner in (*schema.get("properties", {}).values(), schema.get("items"), schema.get("additionalProperties")):
        if isinstance(inner, dict):
            exact(inner)
    return schema


def test_the_runtime_s_container_is_one_of_a_pod_and_restricted(pod: Manifest) -> None:
    (container,) = pod["spec"]["containers"]

    kubernetes_validate.validate(pod, "1.32", strict=True)

    assert container["name"] == "kserve-container"
    context = container["securityContext"]
    assert (context["runAsNonRoot"], context["readOnlyRootFilesystem"], context["allowPrivilegeEscalation"]) == (
        True,
        True,
        False,
    )
    assert [mount["mountPath"] for mount in container["volumeMounts"]] == ["/tmp"]


def test_the_service_takes_the_runtime_s_options_and_listens_where_kserve_asks(
    manifests: tuple[Manifest, ...], pod: Manifest
) -> None:
    (example,) = of_kind(manifests, "InferenceService")
    (container,) = pod["spec"]["containers"]
    name = example["metadata"]["name"]

    given = read_settings([argument.replace("{{.Name}}", name) for argument in container["args"]])

    assert given is not None
    assert (given.model_dir, given.model_name, given.host) == ("/mnt/models", name, "0.0.0.0")
    assert [port["containerPort"] for port in container["ports"]] == [given.port]
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": given.port}
    assert pod["metadata"]["annotations"]["prometheus.kserve.io/port"] == str(given.port)
    assert 0 < given.threads <= float(container["resources"]["requests"]["cpu"])


def test_the_example_names_the_runtime_and_a_format_that_it_takes(manifests: tuple[Manifest, ...]) -> None:
    (runtime,) = of_kind(manifests, "ServingRuntime")
    (example,) = of_kind(manifests, "InferenceService")
    model = example["spec"]["predictor"]["model"]

    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
    formats = [{key: found[key] for key in ("name", "version")} for found in runtime["spec"]["supportedModelFormats"]]
    assert model["modelFormat"] in formats


def test_a_pod_has_the_time_that_its_end_may_take(pod: Manifest) -> None:
    (container,) = pod["spec"]["containers"]
    given = read_settings([argument.replace("{{.Name}}", "digits") for argument in container["args"]])

    assert given is not None
    assert given.drain_seconds + given.shutdown_seconds + KILL_SECONDS < DEFAULT_GRACE_SECONDS
