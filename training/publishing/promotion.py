"""Promotion of a published version that is better than production on the same held-out data.

Knows nothing about training; a manifest says how good a version is.
"""

from __future__ import annotations

import logging

from service.contract.manifest import ModelManifest
from service.contract.registry import PRODUCTION, CorruptVersionError, Registry
from training.data.dataset import HELD_OUT
from training.publishing.provenance import same_held_out
from training.publishing.quality_gate import accuracy_of

logger = logging.getLogger(__name__)


def hold_production(registry: Registry, name: str) -> None:
    """Pin the version being served, so that publishing another does not switch traffic to it."""
    if registry.versions(name) and PRODUCTION not in registry.aliases(name):
        registry.promote(
            name,
            registry.resolve(name),
            when=lambda served: PRODUCTION not in registry.aliases(name) and bool(served),
            verify=False,  # it serves already, or something that stands in for it does
        )


def promote_if_better(registry: Registry, manifest: ModelManifest) -> str:
    """Promote the version once if it is better than production, and return the decision in words.

    A decision is final: a version that somebody has rolled back since is not promoted again.
    """
    name, version = manifest.name, manifest.version
    if (decided := registry.decision(name, version)) is not None:
        return decided
    found: list[str] = []

    def better(served: int) -> bool:
        is_better, why = compare(manifest, _served(registry, name, served))
        found.append(f"{'promoted' if is_better else 'kept what is in production'}: {why}")
        return is_better

    registry.promote(name, version, when=better)
    registry.decide(name, version, found[0])
    return found[0]


def compare(manifest: ModelManifest, served: ModelManifest | None) -> tuple[bool, str]:
    """Return whether the version may replace the served one, by their accuracies on held-out data, and why.

    Never on a test split: one on which versions are chosen measures the chosen one too well.
    """
    if served is None:
        return True, "nothing in production can be read"
    if served.version == manifest.version:
        return True, "it is what is served"
    data = next((m.data for m in manifest.metrics if m.data.endswith(f"/{HELD_OUT}")), None)
    if data is None:
        return False, f"{manifest.name}@{manifest.version} was not measured on held-out data"
    accuracy, other = accuracy_of(manifest, data), accuracy_of(served, data)
    production = f"{served.name}@{served.version} in production"
    if not same_held_out(manifest.provenance, served.provenance):
        return False, f"{production} was not measured on the examples that {manifest.name}@{manifest.version} held out"
    if accuracy is None or other is None:
        return False, f"{production} was not measured on {data}"
    return accuracy > other, f"accuracy on {data} is {accuracy:.2%}, that of {production} {other:.2%}"


def _served(registry: Registry, name: str, version: int) -> ModelManifest | None:
    try:
        return registry.manifest(name, version)
    except CorruptVersionError as error:
        logger.warning("nothing to compare with: %s", error)
        return None
