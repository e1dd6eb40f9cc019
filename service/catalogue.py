"""Which versions a worker should serve: follows the registry, and verifies what it loads from there.

What cannot serve is refused and said once; whatever is wrong with the registry, what serves already serves on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

from service.manifest import ModelManifest
from service.model import Model, UnfitModelError
from service.registry import Registry, RegistryError

logger = logging.getLogger(__name__)

Load = Callable[[ModelManifest, bytes], Model]
"""Makes a model of a verified artifact, ready to serve, or raises UnfitModelError."""


class Served(NamedTuple):
    """A version in the line-up; the default answers when a request names no version."""

    model: Model
    default: bool
    aliases: tuple[str, ...]


LineUp = tuple[Served, ...]


class Catalogue:
    """The line-up that a registry asks for.

    For each model that is production if that alias is set, else the newest version that can serve, and behind it up to
    `keep_versions` of those that served before.
    """

    def __init__(self, registry: Registry, load: Load, *, keep_versions: int) -> None:
        self._registry = registry
        self._load = load
        self._keep_versions = keep_versions
        self._loaded: dict[str, list[Model]] = {}  # of each name the default first
        self._aliases: dict[str, dict[str, int]] = {}
        self._unfit: set[str] = set()  # manifests of what will never serve
        self._said: dict[str, str] = {}  # place -> the complaint about it that was logged last

    def line_up(self) -> LineUp:
        """Look at the registry, load what is new, and give what is to be served from now on.

        Raises:
            RegistryError: the registry cannot be read, or nothing in it can serve and nothing served before.
        """
        names = self._registry.models()
        if names or not self._loaded:  # an empty registry is more likely to be gone than to be meant
            self._loaded = {name: versions for name in names if (versions := self._versions(name))}
        if not self._loaded:
            raise RegistryError(
                f"{self._registry.url} must hold a version that can serve. Given: {names or 'no model'}. "
                "Publish one with: python -m training train RECIPE --publish"
            )
        return tuple(
            Served(model, place == 0, self._aliases_of(model))
            for versions in self._loaded.values()
            for place, model in enumerate(versions)
        )

    def _versions(self, name: str) -> list[Model]:
        """What to serve of one model, the default first."""
        present = self._loaded.get(name, [])
        try:
            self._aliases[name] = self._registry.aliases(name)
            wanted = [self._registry.resolve(name)]
            if not present:
                wanted += [version for version in reversed(self._registry.versions(name)) if version not in wanted]
        except RegistryError as error:
            self._complain(name, error)
            return present
        for version in wanted:
            default = self._find(name, version, present)
            if default:
                return [default, *(model for model in present if model is not default)][: 1 + self._keep_versions]
        return present

    def _find(self, name: str, version: int, present: list[Model]) -> Model | None:
        """The model of that version, loaded now unless it is there; None if it cannot serve."""
        for model in present:
            if model.manifest.version == version:
                return model
        place = f"{name}@{version}"
        try:
            manifest = self._registry.manifest(name, version)
            if manifest.model_dump_json() in self._unfit:
                return None
            artifact = self._registry.artifact(manifest)
        except RegistryError as error:  # perhaps half copied: it is read again the next time
            self._complain(place, error)
            return None
        try:
            found = self._load(manifest, artifact)
        except UnfitModelError as error:
            self._unfit.add(manifest.model_dump_json())
            self._complain(place, error)
            return None
        self._said.pop(place, None)
        return found

    def _aliases_of(self, model: Model) -> tuple[str, ...]:
        aliases = self._aliases.get(model.manifest.name, {})
        return tuple(alias for alias, version in aliases.items() if version == model.manifest.version)

    def _complain(self, place: str, error: Exception) -> None:
        if self._said.get(place) != str(error):
            self._said[place] = str(error)
            logger.error("refused %s: %s", place, error)
