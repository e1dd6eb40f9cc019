"""Which versions a worker should serve, read from the registry and verified on the way in."""

from __future__ import annotations

import logging

import torch

from service.model import Model, UnfitModelError
from service.registry import Registry, RegistryError

logger = logging.getLogger(__name__)


def load_models(registry: Registry, device: torch.device, *, max_batch_size: int) -> list[Model]:
    """Load the version to serve of every model in `registry`: production if that alias is set, else the newest.

    A version that cannot serve is refused, logged, and left out; the others serve.

    Raises:
        RegistryError: the registry cannot be read, or nothing in it can serve.
    """
    names = registry.models()
    loaded = [model for name in names if (model := _load(registry, name, device, max_batch_size))]
    if not loaded:
        raise RegistryError(
            f"{registry.url} must hold a version that can serve. Given: {names or 'no model'}. "
            "Publish one with: python -m training train RECIPE --publish"
        )
    return loaded


def _load(registry: Registry, name: str, device: torch.device, max_batch_size: int) -> Model | None:
    try:
        manifest = registry.manifest(name, registry.resolve(name))
        aliases = tuple(alias for alias, version in registry.aliases(name).items() if version == manifest.version)
        model = Model(manifest, registry.artifact(manifest), device, aliases=aliases)
        model.warm_up(max_batch_size)
    except (RegistryError, UnfitModelError) as error:
        logger.error("refused %s: %s", name, error)
        return None
    return model
