"""The manifests that a cluster would get: each overlay and component as `kubectl kustomize` renders it."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml

K8S = Path(__file__).parents[2] / "k8s"
COMPONENTS = {path.name for path in (K8S / "components").iterdir()}
OVERLAYS = tuple(f"overlays/{path.name}" for path in sorted((K8S / "overlays").iterdir()))
TO_BUCKET = "base and training and registry-bucket and training-to-bucket"
TO_BUCKET_ON_GPU = f"{TO_BUCKET} and training-gpu"
ON_NODES = "base and training and registry-volume and training-gpu and training-kubeflow"
BULK = "base and bulk"
BULK_ON_RAY = f"{BULK} and bulk-ray"
# These patch the manifests of k8s/training and k8s/bulk.
PATCHES = {name for name in COMPONENTS if name.startswith(("training-", "bulk-"))}
ALONE = sorted(COMPONENTS - PATCHES)
BUILDS = (
    *OVERLAYS,
    *(f"base and {name}" for name in ALONE),
    *(TO_BUCKET, TO_BUCKET_ON_GPU, ON_NODES, BULK, BULK_ON_RAY),
)

Manifest = dict[str, Any]


@functools.cache
def build(name: str) -> tuple[Manifest, ...]:
    """Render an overlay, or folders and components that are named with "and" between them."""
    parts = name.split(" and ")
    return kustomize(
        {
            "resources": [part for part in parts if part not in COMPONENTS],
            "components": [f"components/{part}" for part in parts if part in COMPONENTS],
        }
    )


def kustomize(kustomization: Manifest) -> tuple[Manifest, ...]:
    """Render a kustomization whose resources and components are folders of k8s/."""
    if not shutil.which("kubectl"):
        pytest.skip("needs kubectl on the PATH")
    with tempfile.TemporaryDirectory() as folder:
        up = Path(os.path.relpath(K8S, Path(folder).resolve()))
        folders = {
            kind: [f"{up / part}" for part in kustomization.get(kind, [])]
            for kind in ("resources", "components", "transformers")
        }
        (Path(folder) / "kustomization.yaml").write_text(yaml.safe_dump(kustomization | folders))
        command = ["kubectl", "kustomize", folder]
        built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return tuple(yaml.safe_load_all(built.stdout))


def of_kind(manifests: tuple[Manifest, ...], *kinds: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] in kinds]


def pod_templates(manifests: tuple[Manifest, ...]) -> dict[str, Manifest]:
    """Return the pod template of each Deployment, Job, CronJob and TrainingRuntime by kind, and a RayJob's by name."""
    found = {m["kind"]: m["spec"]["template"] for m in of_kind(manifests, "Deployment", "Job")}
    found |= {m["kind"]: m["spec"]["jobTemplate"]["spec"]["template"] for m in of_kind(manifests, "CronJob")}
    for runtime in of_kind(manifests, "TrainingRuntime"):
        (job,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
        found[runtime["kind"]] = job["template"]["spec"]["template"]
    for spec in (m["spec"] for m in of_kind(manifests, "RayJob")):
        found |= {
            "head": spec["rayClusterSpec"]["headGroupSpec"]["template"],
            "submitter": spec["submitterPodTemplate"],
        }
        found |= {group["groupName"]: group["template"] for group in spec["rayClusterSpec"]["workerGroupSpecs"]}
    return found


def settings(manifests: tuple[Manifest, ...], name: str) -> dict[str, str]:
    """Return the data of the generated ConfigMap `name`, whatever hash its name ends with."""
    (found,) = (m for m in of_kind(manifests, "ConfigMap") if m["metadata"]["name"].startswith(f"{name}-"))
    data: dict[str, str] = found["data"]
    return data
