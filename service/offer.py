"""What the workers serve, as the HTTP side knows it, and what a request means that names a model and a version."""

from __future__ import annotations

from collections.abc import Iterable

from service.errors import NotFound, Unavailable
from service.frames import Announcement
from service.manifest import ModelManifest, input_bytes

Key = tuple[str, int]
"""A model's name and a version's number."""


class ServedModel:
    """One version that some worker serves."""

    def __init__(self, announcement: Announcement) -> None:
        self.manifest: ModelManifest = announcement.manifest
        self.name = self.manifest.name
        self.version = self.manifest.version
        self.key: Key = (self.name, self.version)
        self.classes = self.manifest.classes
        self.input_bytes = input_bytes(self.manifest.input)
        self.default = announcement.default
        self.aliases = announcement.aliases


class Offer:
    """The versions that can be asked for; a worker that is gone is expected back with what it served."""

    def __init__(self, default_model: str) -> None:
        self._default_model = default_model
        self._models: dict[Key, ServedModel] = {}
        self._resolved: dict[tuple[str | None, str | None], ServedModel] = {}

    def replace(self, models: Iterable[ServedModel]) -> None:
        """Offer exactly `models` from now on."""
        self._models = {model.key: model for model in sorted(models, key=lambda model: model.key)}
        self._resolved.clear()

    def models(self) -> list[ServedModel]:
        """Everything on offer, by name and number."""
        return list(self._models.values())

    def has(self, key: Key) -> bool:
        return key in self._models

    def default_name(self) -> str | None:
        """The model that answers when none is named: the only one, else the default if it is served."""
        names = {model.name for model in self._models.values()}
        if len(names) == 1:
            return next(iter(names))
        return self._default_model if self._default_model in names else None

    def resolve(self, name: str | None = None, version: str | None = None) -> ServedModel:
        """The model that a request means; without a version (a number or an alias) the one to serve.

        Raises:
            NotFound: nothing by that name, version or alias is served.
            Unavailable: no worker has said yet what it serves.
        """
        found = self._resolved.get((name, version))
        if found is None:
            found = self._resolved[name, version] = self._look_up(name, version)
        return found

    def _look_up(self, name: str | None, version: str | None) -> ServedModel:
        if not self._models:
            raise Unavailable("the service must have loaded its models. Given: it is still starting")
        names = sorted({model.name for model in self._models.values()})
        if name is None:
            name = self.default_name() or self._default_model
        candidates = [model for model in self._models.values() if model.name == name]
        if not candidates:
            raise NotFound(f"model must be one of {names}. Given: {name!r}")
        for model in candidates:
            if model.default if version is None else version in (str(model.version), *model.aliases):
                return model
        known = [str(model.version) for model in candidates] + [a for model in candidates for a in model.aliases]
        raise NotFound(f"version of {name} must be one of {known}. Given: {version!r}")
