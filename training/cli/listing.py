"""The recipes, the models of a registry and one version, as tables for people. Knows nothing about the command line."""

from __future__ import annotations

from rich import box
from rich.table import Table

from service.contract.manifest import ModelManifest
from service.contract.registry import CorruptVersionError, Registry, UnreadableError
from training.recipes import RECIPES


def recipes() -> Table:
    """List every recipe with its expected accuracy."""
    table = _table("recipe", "network", "data", "optimiser", "epochs", "expected")
    for recipe in RECIPES.values():
        hyper = recipe.hyper
        optimiser = f"{hyper.optimiser}, lr {hyper.lr:g} {hyper.lr_schedule}, batch {hyper.batch_size}"
        expected = f">= {recipe.expected:.1%} on {recipe.measured_on}"
        table.add_row(recipe.name, recipe.summary, recipe.data, optimiser, str(hyper.epochs), expected)
    return table


def models(registry: Registry) -> Table:
    """List every version of every model, mark the served one, and tell what cannot be read."""
    table = _table("model", "version", "served", "accuracy", "recipe", "size", "created")
    for model, found in registry.look().items():
        for version in found.versions:
            mark = "yes" if version == found.production() else ""
            table.add_row(model, str(version), mark, *_summary(registry, model, version))
        for fault in found.faults.values():
            table.add_row(model, "", "", fault)
    return table


def version(registry: Registry, manifest: ModelManifest) -> Table:
    """Show the facts about one version, one per line."""
    aliases = [alias for alias, number in registry.aliases(manifest.name).items() if number == manifest.version]
    provenance = manifest.provenance
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_row("version", f"{manifest.name}@{manifest.version}")
    table.add_row("aliases", ", ".join(aliases) or "none")
    table.add_row("created", manifest.created.isoformat(sep=" ", timespec="seconds"))
    table.add_row("input", f"{manifest.input.dtype} {list(manifest.input.shape)}")
    table.add_row("classes", ", ".join(manifest.classes))
    for metric in manifest.metrics:
        table.add_row(metric.name, f"{metric.value:.4f} on {metric.data}, n={metric.n:,}")
    table.add_row("temperature", f"{manifest.temperature:g}")
    table.add_row("recipe", f"{provenance.recipe}, seed {provenance.seed}, {provenance.seconds:.1f} s")
    for name, value in provenance.hyper_parameters.items():
        table.add_row(f"  {name}", str(value))
    table.add_row("data", f"{provenance.dataset}, sha256 {provenance.dataset_digest}")
    table.add_row("device", f"{provenance.device}, torch {provenance.torch_version}")
    table.add_row("commit", provenance.commit)
    table.add_row("artifact", f"{manifest.artifact.size_bytes:,} bytes, sha256 {manifest.artifact.sha256}")
    if manifest.forced is not None:
        table.add_row("forced", f"published although {manifest.forced}")
    return table


def _summary(registry: Registry, model: str, number: int) -> tuple[str, ...]:
    try:
        manifest = registry.manifest(model, number)
    except CorruptVersionError:
        return "its manifest does not parse", "", "", ""
    except UnreadableError:
        return "its manifest cannot be read", "", "", ""
    accuracy = next((m for m in manifest.metrics if m.name == "accuracy"), None)
    measured = f"{accuracy.value:.2%} on {accuracy.data}" if accuracy is not None else "unknown"
    measured += " (forced)" if manifest.forced is not None else ""
    size = f"{manifest.artifact.size_bytes:,}"
    return measured, manifest.provenance.recipe, size, f"{manifest.created:%Y-%m-%d %H:%M}"


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column)
    return table
