"""The catalogue: which of the registry's versions a worker should serve, verified and loaded.

A version that cannot serve is refused and logged once; whatever is wrong with the registry, what is served stays.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Protocol

from service.contract.registry import Registry, RegistryError
from service.engine.line_up import Entry, LineUp
from service.engine.served_models import Absent
from service.model.model import Load, Model, UnfitModelError

logger = logging.getLogger(__name__)

_REFUSALS = 20
"""Refused versions that are reported at a time, the newest."""


class OnLoad(Protocol):
    """Is called when a version was loaded, or refused."""

    def __call__(self, model: str, version: int, *, ok: bool, seconds: float) -> None: ...


def _ignore(model: str, version: int, *, ok: bool, seconds: float) -> None:
    del model, version, ok, seconds


class Catalogue:
    """Decides the line-up that a registry asks for.

    For each model that is the version with the alias production if there is one, else the newest that can serve, and up
    to `keep_versions` of those that were served before. `choose` leaves of all models those that this worker serves,
    which may be none. `on_load` hears of every attempt to load a version, but not
    again of one that is refused again.
    """

    def __init__(
        self,
        registry: Registry,
        load: Load,
        *,
        keep_versions: int,
        choose: Callable[[list[str]], list[str]] | None = None,
        on_load: OnLoad = _ignore,
    ) -> None:
        self._registry = registry
        self._load = load
        self._keep_versions = keep_versions
        self._choose = choose
        self._on_load = on_load
        self._loaded: dict[str, list[Model]] = {}  # for each name the default first
        self._aliases: dict[str, dict[str, int]] = {}
        self._unfit: set[str] = set()  # manifests of versions that can never serve
        self._trouble: dict[str, str] = {}  # name -> the error about its folder that was logged last
        self._refused: dict[tuple[str, int], str] = {}  # (name, version) -> the reason that was logged last

    def line_up(self, on_loading: Callable[[tuple[Absent, ...]], None] = lambda _absent: None) -> LineUp:
        """Look at the registry, load what is new, and return what should be served from now on.

        If something must be loaded, `on_loading` first hears which versions are not served meanwhile.

        Raises:
            RegistryError: the registry cannot be read, or nothing in it can serve and nothing served before.
        """
        names = self._names()
        if names or not self._loaded:  # an empty registry is more likely a mistake than a wish
            wanted = {name: self._wanted(name) for name in names}
            self._refused = {key: reason for key, reason in self._refused.items() if key[0] in wanted}
            if loading := self._to_load(wanted):
                on_loading((*loading, *self._refusals()))
            found = {name: self._versions(name, versions) for name, versions in wanted.items()}
            self._loaded = {name: versions for name, versions in found.items() if versions}
        if not self._loaded and self._choose is None:
            raise RegistryError(
                f"{self._registry.url} must hold a version that can serve. Given: {names or 'no model'}. "
                "Publish one with: python -m training train RECIPE --publish"
            )
        return self._line_up(self._refusals())

    def first_line_up(self, name: str) -> LineUp:
        """Load the model `name` alone, so that it is served while `line_up` loads the others.

        These are announced as loading. If `name` is not there or cannot serve, everything is loaded.

        Raises:
            RegistryError: the registry cannot be read, or nothing in it can serve.
        """
        names = self._names()
        versions = self._versions(name, self._wanted(name)) if name in names else []
        if not versions:
            return self.line_up()
        self._loaded = {name: versions}
        others = {other: self._wanted(other) for other in names if other != name}
        return self._line_up((*self._to_load(others), *self._refusals()))

    def _names(self) -> list[str]:
        names = self._registry.models()
        return self._choose(names) if self._choose else names

    def _line_up(self, absent: tuple[Absent, ...]) -> LineUp:
        served = tuple(
            Entry(model, place == 0, self._aliases_of(model))
            for versions in self._loaded.values()
            for place, model in enumerate(versions)
        )
        return LineUp(served, absent)

    def _wanted(self, name: str) -> list[int]:
        """Return the versions of a model to serve, the first that can; empty if it should stay as it is."""
        try:
            self._aliases[name] = self._registry.aliases(name)
            wanted = [self._registry.resolve(name)]
            if name not in self._loaded:
                wanted += [version for version in reversed(self._registry.versions(name)) if version not in wanted]
        except RegistryError as error:
            if self._trouble.get(name) != str(error):
                self._trouble[name] = str(error)
                logger.error("%s cannot be read: %s", name, error)
            return []
        self._trouble.pop(name, None)
        return wanted

    def _to_load(self, wanted: dict[str, list[int]]) -> list[Absent]:
        """Return the versions that are about to be loaded: neither served nor refused before."""
        present = {(name, model.manifest.version) for name, models in self._loaded.items() for model in models}
        return [
            Absent(name=name, version=versions[0], state="loading")
            for name, versions in wanted.items()
            if versions and (name, versions[0]) not in present | self._refused.keys()
        ]

    def _refusals(self) -> tuple[Absent, ...]:
        return tuple(
            Absent(name=name, version=version, state="refused", reason=reason)
            for (name, version), reason in list(self._refused.items())[-_REFUSALS:]
        )

    def _versions(self, name: str, wanted: list[int]) -> list[Model]:
        """Return the versions of one model to serve, the default first."""
        present = self._loaded.get(name, [])
        for version in wanted:
            default = self._find(name, version, present)
            if default:
                return [default, *(model for model in present if model is not default)][: 1 + self._keep_versions]
        return present

    def _find(self, name: str, version: int, present: list[Model]) -> Model | None:
        """Return the model of a version, loaded now unless it is present; None if it cannot serve."""
        for model in present:
            if model.manifest.version == version:
                return model
        started = time.monotonic()
        try:
            manifest = self._registry.manifest(name, version)
            if manifest.model_dump_json() in self._unfit:
                return None
            artifact = self._registry.artifact(manifest)
            found = self._load(manifest, artifact)
        except (RegistryError, UnfitModelError) as error:
            if isinstance(error, UnfitModelError):  # others may be half copied and are read again the next time
                self._unfit.add(manifest.model_dump_json())
            self._refuse(name, version, str(error), time.monotonic() - started)
            return None
        self._refused.pop((name, version), None)
        seconds = time.monotonic() - started
        self._on_load(name, version, ok=True, seconds=seconds)
        return found

    def _aliases_of(self, model: Model) -> tuple[str, ...]:
        aliases = self._aliases.get(model.manifest.name, {})
        return tuple(alias for alias, version in aliases.items() if version == model.manifest.version)

    def _refuse(self, name: str, version: int, reason: str, seconds: float) -> None:
        if self._refused.get((name, version)) != reason:
            self._refused[name, version] = reason
            logger.error("refused %s@%d: %s", name, version, reason)
            self._on_load(name, version, ok=False, seconds=seconds)
