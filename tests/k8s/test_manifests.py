"""The manifests are valid, secure, consistent with each other, and agree with the service."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import pytest
from pydantic_settings import BaseSettings

from service.processes import supervisor
from service.settings import Settings
from tests.k8s.conftest import (
    BUILDS,
    K8S,
    TO_BUCKET,
    TO_BUCKET_ON_GPU,
    Manifest,
    build,
    of_kind,
    pod_templates,
    settings,
)
from tests.registries import publish
from tests.running import Service, serving
from training.settings import JobSettings

KUBERNETES = "1.32"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service with the settings of the base, but for where it listens and how it logs."""
    given = settings(build("overlays/local"), "argmax-settings")
    registry = tmp_path_factory.mktemp("registry")
    publish(registry, "rows")
    options = {f"--{key.removeprefix('SERVICE_').lower().replace('_', '-')}": given[key] for key in given}
    options |= {"--host": "127.0.0.1", "--log-format": "text", "--port": "0"}
    with serving(registry, *(text for option in options.items() for text in option), traced=False) as service:
        yield service


def probes(container: Manifest) -> dict[str, Manifest]:
    return {name: container[name] for name in ("startupProbe", "livenessProbe", "readinessProbe")}


@pytest.mark.parametrize("name", BUILDS)
def test_every_manifest_is_what_the_api_of_kubernetes_takes(name: str) -> None:
    for manifest in build(name):
        if "." not in manifest["apiVersion"].partition("/")[0] or ".k8s.io/" in manifest["apiVersion"]:
            kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


@pytest.mark.parametrize("name", ["overlays/production", "base and autoscaling-keda"])
def test_every_custom_resource_is_what_its_definition_takes_and_nothing_more(name: str) -> None:
    from cloudcoil.models.keda.v1alpha1 import ScaledObject
    from cloudcoil.models.prometheus_operator.v1 import PodMonitor, PrometheusRule

    kinds: dict[str, Any] = {kind.__name__: kind for kind in (PodMonitor, PrometheusRule, ScaledObject)}
    found = of_kind(build(name), *kinds)

    assert found
    for manifest in found:
        understood = kinds[manifest["kind"]].model_validate(manifest)
        assert understood.model_dump(mode="json", by_alias=True, exclude_unset=True) == manifest


def test_a_field_that_a_definition_lacks_is_found() -> None:
    from cloudcoil.models.prometheus_operator.v1 import PodMonitor

    (monitor,) = of_kind(build("overlays/production"), "PodMonitor")
    misspelt = monitor | {"spec": monitor["spec"] | {"podMetricsEndpoint": []}}

    assert PodMonitor.model_validate(misspelt).model_dump(mode="json", by_alias=True, exclude_unset=True) != misspelt


@pytest.mark.parametrize(
    ("name", "config_map", "settings_class"),
    [
        *((name, "argmax-settings", Settings) for name in BUILDS),
        ("overlays/production", "argmax-training", JobSettings),
        ("overlays/production-gpu", "argmax-training", JobSettings),
        (TO_BUCKET, "argmax-training", JobSettings),
        (TO_BUCKET_ON_GPU, "argmax-training", JobSettings),
    ],
)
def test_every_setting_is_a_field_of_the_settings_class_with_a_value_that_it_takes(
    name: str, config_map: str, settings_class: type[BaseSettings]
) -> None:
    given = settings(build(name), config_map)
    prefix = str(settings_class.model_config["env_prefix"])

    fields = {key.removeprefix(prefix).lower(): value for key, value in given.items() if key.startswith(prefix)}

    assert len(fields) == len(given)
    settings_class.model_validate(fields)


@pytest.mark.parametrize("name", BUILDS)
def test_pods_are_restricted_and_write_to_their_volumes_alone(name: str) -> None:
    for template in pod_templates(build(name)).values():
        pod = template["spec"]
        assert pod["enableServiceLinks"] is pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["runAsGroup"] == 10001
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert all(
            volume.keys() - {"name"} <= {"emptyDir", "persistentVolumeClaim", "secret"} for volume in pod["volumes"]
        )
        for container in (*pod["containers"], *pod.get("initContainers", [])):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


@pytest.mark.parametrize("name", BUILDS)
def test_no_manifest_holds_a_secret(name: str) -> None:
    manifests = build(name)

    assert not of_kind(manifests, "Secret")
    for template in pod_templates(manifests).values():
        assert not any("env" in container for container in template["spec"]["containers"])


@pytest.mark.parametrize("name", BUILDS)
def test_what_selects_pods_selects_the_pods_of_the_service(name: str) -> None:
    manifests = build(name)
    pods = {kind: template["metadata"]["labels"] for kind, template in pod_templates(manifests).items()}

    def selected(labels: Manifest) -> set[str]:
        assert labels
        return {kind for kind, own in pods.items() if labels.items() <= own.items()}

    for manifest in of_kind(manifests, "Service"):
        assert selected(manifest["spec"]["selector"]) == {"Deployment"}
    for manifest in of_kind(manifests, "PodDisruptionBudget", "PodMonitor", "Deployment"):
        assert selected(manifest["spec"]["selector"]["matchLabels"]) == {"Deployment"}
    for manifest in of_kind(manifests, "Deployment"):
        constraints = manifest["spec"]["template"]["spec"]["topologySpreadConstraints"]
        assert [c["topologyKey"] for c in constraints] == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]
        for constraint in constraints:  # without a selector it counts no pods, and spreads none
            assert selected(constraint["labelSelector"]["matchLabels"]) == {"Deployment"}
    for manifest in of_kind(manifests, "NetworkPolicy"):
        theirs = {"Job", "CronJob"} if "training" in manifest["metadata"]["name"] else {"Deployment"}
        assert selected(manifest["spec"]["podSelector"]["matchLabels"]) == theirs


@pytest.mark.parametrize("name", BUILDS)
def test_every_name_that_a_manifest_mentions_is_there(name: str) -> None:
    manifests = build(name)
    there = {(m["kind"], m["metadata"]["name"]) for m in manifests}

    for template in pod_templates(manifests).values():
        pod = template["spec"]
        mounts = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
        assert mounts == {volume["name"] for volume in pod["volumes"]}
        assert ("ServiceAccount", pod["serviceAccountName"]) in there
        for container in pod["containers"]:
            maps = [source["configMapRef"]["name"] for source in container["envFrom"] if "configMapRef" in source]
            assert maps
            assert all(("ConfigMap", mentioned) in there for mentioned in maps)
        claims = [v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if "persistentVolumeClaim" in v]
        assert all(("PersistentVolumeClaim", claim) in there for claim in claims)
    for manifest in of_kind(manifests, "HorizontalPodAutoscaler"):
        assert ("Deployment", manifest["spec"]["scaleTargetRef"]["name"]) in there
    for manifest in of_kind(manifests, "ScaledObject"):
        assert ("Deployment", manifest["spec"]["scaleTargetRef"]["name"]) in there


def test_nothing_else_sets_the_number_of_pods_that_an_autoscaler_decides() -> None:
    for name in BUILDS:
        scaled = of_kind(build(name), "HorizontalPodAutoscaler", "ScaledObject")
        (deployment,) = of_kind(build(name), "Deployment")
        assert ("replicas" in deployment["spec"]) is not bool(scaled), name


def test_a_pod_has_the_time_that_its_end_may_take() -> None:
    manifests = build("overlays/production")
    pod = pod_templates(manifests)["Deployment"]["spec"]
    given = settings(manifests, "argmax-settings")
    command, pause = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]

    longest = (
        float(pause)
        + float(given["SERVICE_DRAIN_SECONDS"])
        + float(given["SERVICE_SHUTDOWN_SECONDS"])
        + supervisor.KILL_SECONDS
    )

    assert command == "sleep"
    assert longest < pod["terminationGracePeriodSeconds"] <= longest + 10


def test_a_pod_has_the_time_to_start_that_the_service_gives_its_workers() -> None:
    startup = pod_templates(build("overlays/production"))["Deployment"]["spec"]["containers"][0]["startupProbe"]

    assert startup["periodSeconds"] * startup["failureThreshold"] >= Settings().startup_seconds


@pytest.mark.parametrize("name", ["overlays/local", "overlays/production", "overlays/production-gpu"])
def test_what_serves_and_a_trial_fit_into_the_memory_that_a_pod_may_use(name: str) -> None:
    container = pod_templates(build(name))["Deployment"]["spec"]["containers"][0]
    given = settings(build(name), "argmax-settings")

    requested, limit = (
        int(container["resources"][kind]["memory"].removesuffix("Gi")) * 2**30 for kind in ("requests", "limits")
    )

    assert requested + int(given["SERVICE_TRIAL_MEMORY_BYTES"]) <= limit


def test_every_probe_is_answered_by_the_service_and_every_port_is_one_that_it_listens_on(running: Service) -> None:
    manifests = build("overlays/production")
    (container,) = pod_templates(manifests)["Deployment"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}

    assert ports == {"http": int(settings(manifests, "argmax-settings")["SERVICE_PORT"])}
    for probe in probes(container).values():
        assert probe["httpGet"]["port"] in ports
        assert running.client.get(probe["httpGet"]["path"]).status_code == 200
    for manifest in of_kind(manifests, "Service"):
        assert all(port["targetPort"] in ports for port in manifest["spec"]["ports"])
    for manifest in of_kind(manifests, "PodMonitor"):
        for endpoint in manifest["spec"]["podMetricsEndpoints"]:
            assert endpoint["port"] in ports
            assert "inference_" in running.client.get(endpoint["path"]).text


def test_autoscalers_go_by_metrics_that_the_service_exposes(running: Service) -> None:
    exposed = running.client.get("/metrics").text
    (autoscaler,) = of_kind(build("overlays/production"), "HorizontalPodAutoscaler")
    (scaled,) = of_kind(build("base and autoscaling-keda"), "ScaledObject")

    names = [metric["pods"]["metric"]["name"] for metric in autoscaler["spec"]["metrics"]]
    queries = [trigger["metadata"]["query"] for trigger in scaled["spec"]["triggers"]]

    assert [re.findall(r"inference_\w+", query) for query in queries] == [[name] for name in names]
    for name in names:
        assert re.search(rf"^{name}[ {{]", exposed, re.MULTILINE), name


def test_both_autoscalers_scale_alike() -> None:
    (autoscaler,) = of_kind(build("overlays/production"), "HorizontalPodAutoscaler")
    (scaled,) = of_kind(build("base and autoscaling-keda"), "ScaledObject")
    by_hpa, by_keda = autoscaler["spec"], scaled["spec"]

    targets = [metric["pods"]["target"] for metric in by_hpa["metrics"]]
    triggers = by_keda["triggers"]

    assert (by_hpa["minReplicas"], by_hpa["maxReplicas"]) == (by_keda["minReplicaCount"], by_keda["maxReplicaCount"])
    assert [target["type"] for target in targets] == [trigger["metricType"] for trigger in triggers]
    assert [quantity(target["averageValue"]) for target in targets] == [
        quantity(trigger["metadata"]["threshold"]) for trigger in triggers
    ]


def quantity(text: str) -> float:
    """The number that Kubernetes reads `text` as."""
    return float(text.removesuffix("m")) / (1000 if text.endswith("m") else 1)


@pytest.mark.parametrize("name", ["overlays/production", "overlays/production-gpu", TO_BUCKET, TO_BUCKET_ON_GPU])
def test_the_job_publishes_where_the_service_looks_and_the_cron_job_does_the_same(name: str) -> None:
    manifests = build(name)
    jobs = pod_templates(manifests)
    (served,) = pod_templates(manifests)["Deployment"]["spec"]["containers"]
    (trains,) = jobs["Job"]["spec"]["containers"]
    registry = settings(manifests, "argmax-settings")["SERVICE_REGISTRY"]

    assert settings(manifests, "argmax-training")["TRAINING_REGISTRY"] == registry
    assert jobs["Job"]["spec"] == jobs["CronJob"]["spec"]
    for container in (served, trains):
        mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
        secrets = [source["secretRef"]["name"] for source in container["envFrom"] if "secretRef" in source]
        assert (registry in mounts, secrets) == ((False, ["argmax-bucket"]) if "://" in registry else (True, []))


GPU_TAINT = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
ON_GPU = [
    *(("overlays/production-gpu", kind) for kind in ("Deployment", "Job", "CronJob")),
    ("base and gpu", "Deployment"),
    *((TO_BUCKET_ON_GPU, kind) for kind in ("Job", "CronJob")),
]


@pytest.mark.parametrize(("name", "kind"), ON_GPU)
def test_a_gpu_pod_gets_one_gpu_on_a_labelled_node_whose_taint_it_tolerates(name: str, kind: str) -> None:
    pod = pod_templates(build(name))[kind]["spec"]
    (container,) = pod["containers"]
    required = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]

    (term,) = required["nodeSelectorTerms"]

    assert container["resources"]["requests"]["nvidia.com/gpu"] == "1"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert pod["tolerations"] == [GPU_TAINT]
    assert term["matchExpressions"] == [{"key": "nvidia.com/gpu.present", "operator": "In", "values": ["true"]}]


@pytest.mark.parametrize("name", BUILDS)
def test_a_pod_uses_cuda_exactly_if_it_requests_a_gpu(name: str) -> None:
    manifests = build(name)
    devices = {"Deployment": settings(manifests, "argmax-settings")["SERVICE_DEVICE"]}
    if of_kind(manifests, "Job"):
        devices |= dict.fromkeys(("Job", "CronJob"), settings(manifests, "argmax-training")["TRAINING_DEVICE"])

    for kind, template in pod_templates(manifests).items():
        (container,) = template["spec"]["containers"]
        asks = "nvidia.com/gpu" in container["resources"]["requests"]
        assert devices[kind] == ("cuda" if asks else "cpu"), kind
        assert ("tolerations" in template["spec"]) is asks, kind


def test_gpu_pods_roll_without_a_spare_gpu_and_cpu_pods_without_a_gap() -> None:
    strategies = {
        name: of_kind(build(name), "Deployment")[0]["spec"]["strategy"]["rollingUpdate"]
        for name in ("overlays/production-gpu", "overlays/production")
    }

    assert strategies == {
        "overlays/production-gpu": {"maxSurge": 0, "maxUnavailable": 1},
        "overlays/production": {"maxSurge": 1, "maxUnavailable": 0},
    }


def test_the_production_images_have_the_version_of_the_package() -> None:
    version = tomllib.loads((K8S.parent / "pyproject.toml").read_text())["project"]["version"]

    for name in ("overlays/production", "overlays/production-gpu"):
        for template in pod_templates(build(name)).values():
            (container,) = template["spec"]["containers"]
            assert container["image"].endswith(f":{version}")


def test_the_dashboard_comes_as_grafana_looks_for_it() -> None:
    (dashboard,) = (
        m for m in of_kind(build("overlays/production"), "ConfigMap") if "dashboard" in m["metadata"]["name"]
    )

    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert dashboard["data"].keys() == {"dashboard.json"}
