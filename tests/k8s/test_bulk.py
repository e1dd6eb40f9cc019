"""The two ways to score a collection in a cluster are the same run, and KubeRay and Kubernetes take both."""

from __future__ import annotations

import copy
import os
import re
import shlex
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from jsonschema import Draft202012Validator

from service.commands import score
from tests.k8s.conftest import BULK, BULK_ON_RAY, K8S, TO_BUCKET, Manifest, build, of_kind, pod_templates, settings

KUBERNETES = "1.32"
CRD = os.environ.get("KUBERAY_CRD", "")


def ray_job() -> Manifest:
    (found,) = of_kind(build(BULK_ON_RAY), "RayJob")
    return found


def commands() -> tuple[list[str], list[str]]:
    """What the pod of the Job runs, and what the RayJob does."""
    (container,) = pod_templates(build(BULK))["Job"]["spec"]["containers"]
    python, dash_m, service, *by_ray = shlex.split(ray_job()["spec"]["entrypoint"])
    assert (python, dash_m, service) == ("python", "-m", "service")
    return container["args"], by_ray


def test_both_are_the_same_run_but_for_the_engine_and_its_options_are_those_of_the_command() -> None:
    (_, *alone), (_, *by_ray) = commands()

    job, cluster = vars(score._parser().parse_args(alone)), vars(score._parser().parse_args(by_ray))

    assert {name for name in job if job[name] != cluster[name]} == {"engine", "address", "actors"}
    assert (cluster["engine"], cluster["address"]) == ("ray", "auto")
    assert job["version"].isdecimal()  # an alias may mean another version at the second attempt


def test_the_actors_fill_the_workers() -> None:
    (_, *by_ray) = commands()[1]
    options = score._parser().parse_args(by_ray)
    (group,) = ray_job()["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]

    cores = group["replicas"] * int(container["resources"]["limits"]["cpu"])

    assert options.actors * options.cpus_per_actor == cores
    assert ray_job()["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_the_cluster_has_the_ray_that_the_tests_passed_with() -> None:
    pinned = re.search(r"^ray==(.*)$", (K8S.parent / "constraints.txt").read_text(), re.MULTILINE)

    assert pinned
    assert ray_job()["spec"]["rayClusterSpec"]["rayVersion"] == pinned[1]


def test_the_job_reaches_a_bucket_wherever_the_service_does() -> None:
    policies = {
        policy["metadata"]["name"]: policy["spec"]["egress"][0]["ports"]
        for name in (BULK, TO_BUCKET)
        for policy in of_kind(build(name), "NetworkPolicy")
        if policy["spec"]["egress"]
    }

    opened, to_bucket = (
        {(port["port"], port.get("protocol", "TCP")) for port in policies[name]}
        for name in ("argmax-bulk", "argmax-to-bucket")
    )
    assert opened >= to_bucket


def test_a_ray_cluster_replaces_the_job() -> None:
    assert of_kind(build(BULK), "Job")
    assert not of_kind(build(BULK_ON_RAY), "Job")


@pytest.mark.parametrize("name", ["head", "workers", "submitter"])
def test_every_pod_of_the_ray_job_is_one_that_kubernetes_takes(name: str) -> None:
    template = pod_templates(build(BULK_ON_RAY))[name]

    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": template["spec"]}

    kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def test_nobody_but_its_own_pods_and_the_operator_reaches_a_ray_cluster() -> None:
    (policy,) = (m for m in of_kind(build(BULK_ON_RAY), "NetworkPolicy") if m["metadata"]["name"] == "argmax-bulk")
    own = policy["spec"]["podSelector"]

    peers = [(peer, rule.get("ports")) for rule in policy["spec"]["ingress"] for peer in rule["from"]]

    operator = {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app.kubernetes.io/name": "kuberay-operator"}}}
    assert peers == [({"podSelector": own}, None), (operator, [{"port": 8265}])]


def test_the_registry_is_a_place_that_every_pod_sees() -> None:
    assert settings(build(BULK_ON_RAY), "argmax-bulk")["SERVICE_REGISTRY"].startswith("s3://")


def closed(schema: Any) -> Any:
    """Return a schema that refuses fields which it does not name, as the API server prunes them."""
    if isinstance(schema, list):
        return [closed(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: closed(value) for key, value in schema.items() if key not in ("x-kubernetes-validations", "format")}
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        found.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string"):
        found = {"type": ["integer", "string"]}
    return found


@pytest.mark.skipif(not CRD, reason="needs KubeRay's ray.io_rayjobs.yaml; set KUBERAY_CRD to its path")
def test_the_ray_job_is_what_its_definition_takes_and_nothing_more() -> None:
    definition = yaml.safe_load(Path(CRD).read_text())
    (version,) = (v for v in definition["spec"]["versions"] if v["name"] == "v1")
    schema = closed(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}  # of Kubernetes' own
    validator = Draft202012Validator(schema)
    misspelt = copy.deepcopy(ray_job())
    misspelt["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["minReplica"] = 1

    validator.validate(ray_job())

    assert not validator.is_valid(misspelt)
