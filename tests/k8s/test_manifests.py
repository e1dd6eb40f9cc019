"""The manifests are valid, secure, consistent with each other, and agree with the service."""

from __future__ import annotations

import copy
import ipaddress
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from pydantic_settings import BaseSettings

from service.__main__ import main
from service.contract.registry import Registry
from service.processes import supervisor
from service.settings import Settings
from tests.k8s.conftest import (
    BUILDS,
    BULK,
    BULK_ON_RAY,
    K8S,
    ON_NODES,
    TO_BUCKET,
    TO_BUCKET_ON_GPU,
    Manifest,
    build,
    kustomize,
    of_kind,
    pod_templates,
    settings,
)
from tests.pictures import row_png
from tests.ports import free_port
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
    options |= {"--host": "127.0.0.1", "--log-format": "text", "--port": "0", "--grpc-port": str(free_port())}
    with serving(registry, *(text for option in options.items() for text in option), traced=False) as service:
        yield service


def probes(container: Manifest) -> dict[str, Manifest]:
    return {name: container[name] for name in ("startupProbe", "livenessProbe", "readinessProbe")}


@pytest.mark.parametrize("name", BUILDS)
def test_every_manifest_is_what_the_api_of_kubernetes_takes(name: str) -> None:
    for manifest in build(name):
        if "." not in manifest["apiVersion"].partition("/")[0] or ".k8s.io/" in manifest["apiVersion"]:
            kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


@pytest.mark.parametrize("name", ["overlays/production", "base and autoscaling-keda", "overlays/canary", ON_NODES])
def test_every_custom_resource_is_what_its_definition_takes_and_nothing_more(name: str) -> None:
    from cloudcoil.models.keda.v1alpha1 import ScaledObject
    from cloudcoil.models.prometheus_operator.v1 import PodMonitor, PrometheusRule
    from kubeflow_trainer_api.models import TrainerV1alpha1TrainingRuntime, TrainerV1alpha1TrainJob

    kinds: dict[str, Any] = {kind.__name__: kind for kind in (PodMonitor, PrometheusRule, ScaledObject)}
    kinds |= {"TrainJob": TrainerV1alpha1TrainJob, "TrainingRuntime": TrainerV1alpha1TrainingRuntime}
    found = of_kind(build(name), *kinds)

    assert found
    for manifest in copy.deepcopy(found):
        if manifest["kind"] == "TrainingRuntime":  # its model of a pod takes no quantities as they are written
            (job,) = manifest["spec"]["template"]["spec"]["replicatedJobs"]
            pod = job["template"]["spec"]["template"]
            pod["metadata"] |= {"name": "node"}
            kubernetes_validate.validate({"apiVersion": "v1", "kind": "Pod", **pod}, KUBERNETES, strict=True)
            job["template"]["spec"]["template"] = {}
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
        (ON_NODES, "argmax-training", JobSettings),
        (TO_BUCKET, "argmax-training", JobSettings),
        (TO_BUCKET_ON_GPU, "argmax-training", JobSettings),
        (BULK, "argmax-bulk", Settings),
        (BULK_ON_RAY, "argmax-bulk", Settings),
    ],
)
def test_every_setting_is_a_field_of_the_settings_class_with_a_value_that_it_takes(
    name: str, config_map: str, settings_class: type[BaseSettings]
) -> None:
    given = {key: value for key, value in settings(build(name), config_map).items() if key != "RECIPE"}
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
        is_batch = any(job in manifest["metadata"]["name"] for job in ("training", "bulk"))
        theirs = pods.keys() - {"Deployment"} if is_batch else {"Deployment"}
        assert selected(manifest["spec"]["podSelector"]["matchLabels"]) == theirs


@pytest.mark.parametrize("name", BUILDS)
def test_every_name_that_a_manifest_mentions_is_there(name: str) -> None:
    manifests = build(name)
    there = {(m["kind"], m["metadata"]["name"]) for m in manifests}

    for template in pod_templates(manifests).values():
        pod = template["spec"]
        containers = [*pod["containers"], *pod.get("initContainers", [])]
        mounts = {mount["name"] for container in containers for mount in container["volumeMounts"]}
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
    for manifest in of_kind(manifests, "TrainJob"):
        assert ("TrainingRuntime", manifest["spec"]["runtimeRef"]["name"]) in there


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
    # Each process that takes requests decodes two pictures at a time; 570 MiB is a 32-megapixel JPEG at its worst.
    processes = Settings.model_validate(
        {"http_processes": given["SERVICE_HTTP_PROCESSES"], "grpc_port": given["SERVICE_GRPC_PORT"]}
    ).front_processes
    decoding = min(8, 2 * processes) * 570 * 2**20
    assert requested + int(given["SERVICE_TRIAL_MEMORY_BYTES"]) + decoding <= limit


def test_the_memory_at_rest_is_one_figure_and_fits_into_what_a_pod_requests() -> None:
    section = (K8S.parent / "docs" / "benchmarks.md").read_text().partition("## Memory and start")[2]
    takes = re.compile(r"takes (\d+)\s+MiB")

    said = [
        takes.search(text)
        for text in (
            section,
            (K8S.parent / "docs" / "deploy.md").read_text().partition("Idle, it ")[2],
            (K8S / "base" / "deployment.yaml").read_text(),
        )
    ]

    (figure,) = {found[1] for found in said if found}
    assert None not in said
    for name in ("overlays/local", "overlays/production"):
        requested = pod_templates(build(name))["Deployment"]["spec"]["containers"][0]["resources"]["requests"]["memory"]
        assert int(figure) < 0.75 * 1024 * int(requested.removesuffix("Gi")), name


def test_every_probe_is_answered_by_the_service_and_every_port_is_one_that_it_listens_on(running: Service) -> None:
    manifests = build("overlays/production")
    (container,) = pod_templates(manifests)["Deployment"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}

    given = settings(manifests, "argmax-settings")
    assert ports == {"http": int(given["SERVICE_PORT"]), "grpc": int(given["SERVICE_GRPC_PORT"])}
    assert running.wait_for_log(r"gRPC")
    for manifest in of_kind(manifests, "NetworkPolicy"):
        allowed = [port["port"] for rule in manifest["spec"].get("ingress", []) for port in rule.get("ports", [])]
        assert set(allowed) in (set(), set(ports)), manifest["metadata"]["name"]
    for probe in probes(container).values():
        assert probe["httpGet"]["port"] in ports
        assert running.client.get(probe["httpGet"]["path"]).status_code == 200
    for manifest in of_kind(manifests, "Service"):
        assert [port["targetPort"] for port in manifest["spec"]["ports"]] == list(ports)
    for manifest in of_kind(manifests, "PodMonitor"):
        for endpoint in manifest["spec"]["podMetricsEndpoints"]:
            assert endpoint["port"] in ports
            assert "inference_" in running.client.get(endpoint["path"]).text


def test_autoscalers_go_by_metrics_that_the_service_exposes(running: Service) -> None:
    assert running.predict(row_png(1)).status_code == 200
    assert running.wait_for_metric(1e-9, "inference_compute_seconds_total") > 0
    exposed = running.client.get("/metrics").text
    (autoscaler,) = of_kind(build("overlays/production"), "HorizontalPodAutoscaler")
    (scaled,) = of_kind(build("base and autoscaling-keda"), "ScaledObject")

    rules = yaml.safe_load((K8S / "components" / "autoscaling-hpa" / "adapter-rules.yaml").read_text())["custom"]
    series = [rule["seriesQuery"].partition("{")[0] for rule in rules]
    given = [rule["metricsQuery"].replace("<<.Series>>", name) for rule, name in zip(rules, series, strict=True)]

    names = [metric["pods"]["metric"]["name"] for metric in autoscaler["spec"]["metrics"]]
    queries = [trigger["metadata"]["query"] for trigger in scaled["spec"]["triggers"]]

    assert names == [rule.get("name", {}).get("as", name) for rule, name in zip(rules, series, strict=True)]
    by_keda, by_adapter = ([re.findall(r"inference_\w+", query) for query in found] for found in (queries, given))
    assert by_keda == by_adapter
    for name in (name for query in by_keda for name in query):
        assert re.search(rf"^{name}[ {{]", exposed, re.MULTILINE), name


def test_both_autoscalers_scale_alike() -> None:
    (autoscaler,) = of_kind(build("overlays/production"), "HorizontalPodAutoscaler")
    (scaled,) = of_kind(build("base and autoscaling-keda"), "ScaledObject")
    by_hpa, by_keda = autoscaler["spec"], scaled["spec"]

    targets = [metric["pods"]["target"] for metric in by_hpa["metrics"]]
    triggers = by_keda["triggers"]

    assert (by_hpa["minReplicas"], by_hpa["maxReplicas"]) == (by_keda["minReplicaCount"], by_keda["maxReplicaCount"])
    assert [target["type"] for target in targets] == [trigger["metricType"] for trigger in triggers]
    assert by_hpa["behavior"] == by_keda["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
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
    assert jobs["Job"] == jobs["CronJob"]
    for container in (served, trains):
        mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
        secrets = [source["secretRef"] for source in container["envFrom"] if "secretRef" in source]
        # Optional, because a pod whose ServiceAccount has access to the bucket needs no Secret.
        secret = {"name": "argmax-bucket", "optional": True}
        assert (registry in mounts, secrets) == ((False, [secret]) if "://" in registry else (True, []))


GPU_TAINT = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
ON_GPU = [
    *(("overlays/production-gpu", kind) for kind in ("Deployment", "Job", "CronJob")),
    ("base and gpu", "Deployment"),
    *((TO_BUCKET_ON_GPU, kind) for kind in ("Job", "CronJob")),
    (ON_NODES, "TrainingRuntime"),
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
    for kind, template in pod_templates(manifests).items():
        if kind != "Deployment":
            config_map, setting = (
                ("argmax-bulk", "SERVICE_DEVICE") if "bulk" in name else ("argmax-training", "TRAINING_DEVICE")
            )
            devices[kind] = settings(manifests, config_map)[setting]
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

    for name in ("overlays/production", "overlays/production-gpu", "overlays/canary", "production on nodes"):
        kustomization = {"resources": ["overlays/production"], "components": ["components/training-kubeflow"]}
        manifests = kustomize(kustomization) if name == "production on nodes" else build(name)
        for template in pod_templates(manifests).values():
            for container in (*template["spec"]["containers"], *template["spec"].get("initContainers", [])):
                assert container["image"].endswith(f":{version}")


def test_the_dashboard_comes_as_grafana_looks_for_it() -> None:
    (dashboard,) = (
        m for m in of_kind(build("overlays/production"), "ConfigMap") if "dashboard" in m["metadata"]["name"]
    )

    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert dashboard["data"].keys() == {"dashboard.json"}


SIDE_BY_SIDE = {
    "resources": ["base", "training"],
    "components": ["components/autoscaling-keda", "components/registry-bucket", "components/training-to-bucket"],
    "transformers": ["release"],
}


@pytest.fixture(scope="module")
def releases() -> dict[str, tuple[Manifest, ...]]:
    """Two releases in one namespace, and one of the first name in another."""
    return {
        "argmax": kustomize({**SIDE_BY_SIDE, "namespace": "argmax"}),
        "argmax-canary": kustomize({**SIDE_BY_SIDE, "namespace": "argmax", "nameSuffix": "-canary"}),
        "staging": kustomize({**SIDE_BY_SIDE, "namespace": "staging"}),
    }


def selectors(manifest: Manifest) -> list[Manifest]:
    """Return the labels by which a manifest selects pods."""
    spec = manifest["spec"]
    if manifest["kind"] == "Service":
        return [spec["selector"]]
    selector = spec["podSelector"] if manifest["kind"] == "NetworkPolicy" else spec["selector"]
    spread = spec.get("template", {}).get("spec", {}).get("topologySpreadConstraints", [])
    return [selector["matchLabels"], *(constraint["labelSelector"]["matchLabels"] for constraint in spread)]


def test_of_two_releases_each_selects_its_own_pods_alone(releases: dict[str, tuple[Manifest, ...]]) -> None:
    kinds = ("Deployment", "NetworkPolicy", "PodDisruptionBudget", "PodMonitor", "Service")
    pods = {
        release: [template["metadata"]["labels"] for template in pod_templates(releases[release]).values()]
        for release in ("argmax", "argmax-canary")
    }

    for release, other in (("argmax", "argmax-canary"), ("argmax-canary", "argmax")):
        found = of_kind(releases[release], *kinds)
        assert {manifest["kind"] for manifest in found} == set(kinds)
        for labels in (labels for manifest in found for labels in selectors(manifest)):
            assert any(labels.items() <= own.items() for own in pods[release]), labels
            assert not any(labels.items() <= own.items() for own in pods[other]), labels
    names = [{(m["kind"], m["metadata"]["name"]) for m in releases[release]} for release in pods]
    assert not names[0] & names[1]


@pytest.mark.parametrize(
    ("release", "namespace", "name"),
    [("argmax", "argmax", "argmax"), ("argmax-canary", "argmax", "argmax-canary"), ("staging", "staging", "argmax")],
)
def test_queries_and_alerts_are_about_their_own_release(
    releases: dict[str, tuple[Manifest, ...]], release: str, namespace: str, name: str
) -> None:
    manifests = releases[release]
    (scaled,) = of_kind(manifests, "ScaledObject")
    queries = [trigger["metadata"]["query"] for trigger in scaled["spec"]["triggers"]]
    rules = [
        rule
        for manifest in of_kind(manifests, "PrometheusRule")
        for group in manifest["spec"]["groups"]
        for rule in group["rules"]
    ]
    (down,) = (rule["expr"] for rule in rules if rule["alert"] == "ArgmaxDown")
    (monitor,) = of_kind(manifests, "PodMonitor")

    assert scaled["spec"]["scaleTargetRef"]["name"] == name
    assert len(queries) == 3
    for query in (*queries, down):
        assert re.findall(r'(?:namespace|app_kubernetes_io_instance)="[^"]*"', query) == [
            f'namespace="{namespace}"',
            f'app_kubernetes_io_instance="{name}"',
        ]
    for rule in rules:
        assert re.findall(r'namespace="([^"]*)"', rule["expr"]) == [namespace], rule["alert"]
    assert monitor["spec"]["podTargetLabels"] == ["app.kubernetes.io/instance"]  # makes that label of the metrics


def test_without_prometheus_keda_takes_no_pod_away_from_a_busy_service() -> None:
    (scaled,) = of_kind(build("base and autoscaling-keda"), "ScaledObject")

    assert scaled["spec"]["fallback"]["replicas"] == scaled["spec"]["maxReplicaCount"]
    assert "cooldownPeriod" not in scaled["spec"]  # it only counts for the way to zero


@pytest.mark.parametrize("name", BUILDS)
def test_a_model_computes_on_no_more_cores_than_its_pod_requests(name: str) -> None:
    container = pod_templates(build(name))["Deployment"]["spec"]["containers"][0]
    threads = Settings.model_validate({"threads": settings(build(name), "argmax-settings")["SERVICE_THREADS"]}).threads

    assert 0 < threads <= float(container["resources"]["requests"]["cpu"])


def test_the_recipe_is_named_once_for_the_job_and_the_cron_job() -> None:
    def arguments(recipe: Manifest) -> list[list[str]]:
        manifests = kustomize({"resources": ["overlays/production"], **recipe})
        given = settings(manifests, "argmax-training")
        jobs = pod_templates(manifests)
        return [
            [re.sub(r"\$\((\w+)\)", lambda found: given[found[1]], text) for text in container["args"]]
            for container in (jobs[kind]["spec"]["containers"][0] for kind in ("Job", "CronJob"))
        ]

    another = {"configMapGenerator": [{"name": "argmax-training", "behavior": "merge", "literals": ["RECIPE=cifar10"]}]}
    mnist, cifar10 = ["run", "mnist", "--publish", "--promote-if-better"], ["run", "cifar10", "--publish"]

    assert arguments({"namespace": "argmax"}) == [mnist, mnist]
    assert [found[:3] for found in arguments({"namespace": "argmax", **another})] == [cifar10, cifar10]


@pytest.mark.parametrize("name", ["overlays/production", ON_NODES])
def test_a_job_that_cannot_be_changed_is_replaced_by_who_applies_it(name: str) -> None:
    found = of_kind(build(name), "Job", "TrainJob")

    assert found
    for manifest in found:
        annotations = manifest["metadata"]["annotations"]
        assert annotations["argocd.argoproj.io/sync-options"] == "Force=true,Replace=true"
        assert annotations["kustomize.toolkit.fluxcd.io/force"] == "enabled"


def test_production_serves_the_default_model_before_anything_was_trained(tmp_path: Path) -> None:
    manifests = build("overlays/production")
    pod = pod_templates(manifests)["Deployment"]["spec"]
    (seed,) = pod["initContainers"]
    served = settings(manifests, "argmax-settings")["SERVICE_REGISTRY"]
    places = {served: str(tmp_path / "volume"), "/app/models": str(K8S.parent / "models")}

    code = main([places.get(argument, argument) for argument in seed["args"]])

    assert code == 0
    assert Settings().default_model in Registry(tmp_path / "volume").models()
    assert seed["image"] == pod["containers"][0]["image"]  # the Dockerfile copies models/ to /app/models
    assert [(mount["mountPath"], mount.get("readOnly", False)) for mount in seed["volumeMounts"]] == [(served, False)]
    (mount,) = (mount for mount in pod["containers"][0]["volumeMounts"] if mount["mountPath"] == served)
    assert mount["readOnly"] is True


def reaches(policy: Manifest, port: int, address: str | None = None) -> bool:
    """Whether a policy lets pods connect to a port of any address or, given one, of that one."""
    for rule in policy["spec"]["egress"]:
        blocks = [ipaddress.ip_network(to["ipBlock"]["cidr"]) for to in rule.get("to", [])]
        there = not rule.get("to") or (address is not None and any(ipaddress.ip_address(address) in b for b in blocks))
        if there and port in [allowed["port"] for allowed in rule["ports"]]:
            return True
    return False


@pytest.mark.parametrize("name", ["argmax-to-bucket", "argmax-training-to-bucket"])
def test_pods_reach_the_bucket_and_whoever_gives_them_an_identity_and_nothing_else(name: str) -> None:
    (policy,) = (m for m in of_kind(build(TO_BUCKET), "NetworkPolicy") if m["metadata"]["name"] == name)

    assert reaches(policy, 53)
    assert reaches(policy, 443)
    assert reaches(policy, 9000)
    for address, port in [
        ("169.254.170.23", 80),
        ("fd00:ec2::23", 80),
        ("169.254.169.254", 80),
        ("169.254.169.252", 988),
    ]:
        assert reaches(policy, port, address), address
        assert not reaches(policy, port), port


def test_one_training_run_on_several_nodes_is_started_by_torchrun_and_takes_the_place_of_the_jobs() -> None:
    manifests = build(ON_NODES)
    pod = pod_templates(manifests)["TrainingRuntime"]["spec"]
    (container,) = pod["containers"]
    (job,) = of_kind(manifests, "TrainJob")
    (runtime,) = of_kind(manifests, "TrainingRuntime")
    (replicated,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    claims = {m["metadata"]["name"]: m["spec"]["accessModes"] for m in of_kind(manifests, "PersistentVolumeClaim")}

    assert not of_kind(manifests, "Job", "CronJob")
    assert container["command"] + container["args"][:1] == ["torchrun", "-m", "training", "run"]
    assert job["spec"]["trainer"]["numNodes"] == runtime["spec"]["mlPolicy"]["numNodes"] == 2
    assert (replicated["name"], container["name"]) == ("node", "node")  # by which Trainer finds them
    assert replicated["template"]["metadata"]["labels"] == {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}
    assert set(map(tuple, claims.values())) == {("ReadWriteMany",)}
    (policy,) = (m for m in of_kind(manifests, "NetworkPolicy") if m["metadata"]["name"].endswith("-nodes"))
    labels = pod_templates(manifests)["TrainingRuntime"]["metadata"]["labels"]
    for rule in (policy["spec"]["ingress"][0]["from"], policy["spec"]["egress"][0]["to"]):
        assert rule[0]["podSelector"]["matchLabels"].items() <= labels.items()
