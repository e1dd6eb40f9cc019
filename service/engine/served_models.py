"""The models that the workers serve, as the HTTP side sees them, and which of them a request means."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Mapping

from service.contract.manifest import ModelManifest, OutlierScores, identity, input_bytes
from service.contract.variants import Form
from service.engine.absent import Absent
from service.problems import NotFound, Unavailable

QUARANTINE_RETRY_SECONDS = 30
"""After which a client may ask again for a version in quarantine, which ends when another version arrives."""

Key = tuple[str, int]
"""A model's name and a version's number."""


class OutlierScale:
    """What an outlier score means: an input with one above `threshold` is an outlier."""

    __slots__ = ("_quantiles", "threshold")

    def __init__(self, scores: OutlierScores) -> None:
        self.threshold = scores.threshold
        self._quantiles = scores.quantiles

    def percentile(self, score: float) -> float:
        """Return the percentage of held-out inputs that resemble the training data more than one with this score."""
        quantiles = self._quantiles
        if not score <= quantiles[-1]:  # so that NaN is foreign
            return 100.0
        return 100.0 * bisect.bisect_left(quantiles, score) / len(quantiles)


class ServedModel:
    """A version that some worker serves; the default one answers when a request names no version."""

    def __init__(
        self, manifest: ModelManifest, *, default: bool, aliases: tuple[str, ...] = (), form: Form | None = None
    ) -> None:
        self.manifest = manifest
        self.form = form or Form()
        self.name = manifest.name
        self.version = manifest.version
        self.key: Key = (self.name, self.version)
        self.classes = manifest.classes
        self.input = manifest.input
        self.input_bytes = input_bytes(manifest.input)
        self.outliers = OutlierScale(manifest.outliers) if manifest.outliers else None
        self.sets = manifest.sets
        is_blind = manifest.outliers is not None and not manifest.outliers.knows_blank
        self.blank_is_outlier = is_blind and manifest.input.kind == "image"
        self.default = default
        self.aliases = aliases
        self.identity = identity(manifest)

    def is_called(self, version: str) -> bool:
        """Return whether that is its number, or one of its aliases."""
        return version == str(self.version) or version in self.aliases

    def as_default(self) -> ServedModel:
        """Return the same version as its model's default."""
        return ServedModel(self.manifest, default=True, aliases=self.aliases, form=self.form)


class ServedModels:
    """The models that can be asked for; a worker that is gone is expected back with the same ones."""

    def __init__(self, default_model: str) -> None:
        self._default_model = default_model
        self._announced: dict[Key, ServedModel] = {}
        self._not_served: dict[Key, Absent] = {}
        self._quarantine: Mapping[str, str] = {}
        self._all_groups = False
        self._models: dict[Key, ServedModel] = {}
        self._absent: dict[Key, Absent] = {}
        self.is_complete = False  # whether every model was loaded, or refused, since this process began
        self._resolved: dict[tuple[str | None, str | None], ServedModel] = {}

    def replace(self, models: Iterable[ServedModel], absent: Iterable[Absent] = (), *, all_groups: bool = True) -> None:
        """Take over what the workers serve now, and why versions are absent.

        `all_groups` says whether some worker of each group of models has been heard of.
        """
        self._all_groups = all_groups
        self._announced = {model.key: model for model in sorted(models, key=lambda model: model.key)}
        self._not_served = {(version.name, version.version): version for version in absent}
        self._update()

    def quarantine(self, reasons: Mapping[str, str]) -> None:
        """Serve the versions with these identities no longer, for the reasons given.

        Where one was its model's default, the newest of the model's other versions takes its place.
        """
        self._quarantine = reasons
        self._update()

    def _update(self) -> None:
        isolated = {
            m.key: self._quarantine[m.identity] for m in self._announced.values() if m.identity in self._quarantine
        }
        self._models = {key: model for key, model in self._announced.items() if key not in isolated}
        for name in {name for name, version in isolated if self._announced[name, version].default}:
            others = [model for model in self._models.values() if model.name == name]
            if others and not any(model.default for model in others):
                self._models[others[-1].key] = others[-1].as_default()
        found = self._not_served | {
            key: Absent(name=key[0], version=key[1], state="quarantined", reason=reason)
            for key, reason in isolated.items()
        }
        self._absent = {key: found[key] for key in sorted(found.keys() - self._models.keys())}
        served = {model.name for model in self._announced.values()}
        starting = any(absent.state == "loading" and absent.name not in served for absent in self._absent.values())
        # It stays true: a model that is published later must not take the readiness away from the others.
        self.is_complete = self.is_complete or (bool(served) and not starting and self._all_groups)
        self._resolved.clear()

    def models(self) -> list[ServedModel]:
        """Return all models, by name and number."""
        return list(self._models.values())

    def absent(self) -> list[Absent]:
        """Return the versions that are in the registry and not served, by name and number."""
        return list(self._absent.values())

    def fallbacks(self) -> dict[str, Absent]:
        """Return, for each model that answers with another version than production, why production does not."""
        served = {model.name for model in self._models.values()}
        refused = [absent for absent in self._absent.values() if absent.is_production and absent.state == "refused"]
        return {absent.name: absent for absent in refused if absent.name in served}

    def has(self, key: Key) -> bool:
        return key in self._models

    def withdrawal(self, key: Key) -> Unavailable | None:
        """Return the answer to who waits for a version that was served; None if it still is."""
        if key in self._models:
            return None
        absent = self._absent.get(key)
        if absent and absent.state == "quarantined":
            return quarantined(absent)
        return Unavailable("the version must still be served. Given: it was withdrawn; ask again")

    def default_name(self) -> str | None:
        """Return the model that is meant when none is named: the configured one, or the only one in the registry.

        It may be one that is refused or being loaded: no other model answers in its place.
        """
        names = {name for name, _ in (*self._announced, *self._absent)}
        if self._default_model in names:
            return self._default_model
        return next(iter(names)) if len(names) == 1 else None

    def resolve(self, name: str | None = None, version: str | None = None) -> ServedModel:
        """Return the model that a request means; without a version (a number or an alias) its default version.

        Raises:
            NotFound: nothing by that name, version or alias is served.
            Unavailable: no worker has announced its models yet, or the version is being loaded.
        """
        found = self._resolved.get((name, version))
        if found is None:
            found = self._resolved[name, version] = self._look_up(name, version)
        return found

    def _look_up(self, name: str | None, version: str | None) -> ServedModel:
        if not self._announced:
            raise Unavailable("the service must have loaded its models. Given: it is still starting")
        names = sorted({model.name for model in self._models.values()})
        if name is None:
            if default := self.default_name():
                self._check_quarantine(default, version)
            name = self._served_default(names)
        else:
            self._check_quarantine(name, version)
        candidates = [model for model in self._models.values() if model.name == name]
        for model in candidates:
            if model.default if version is None else model.is_called(version):
                return model
        refusals = self._refusals(name, version if candidates else None)
        if not candidates:
            raise NotFound(f"model must be one of {names}. Given: {name!r}{refusals}")
        known = [str(model.version) for model in candidates] + [a for model in candidates for a in model.aliases]
        raise NotFound(f"version of {name} must be one of {known}. Given: {version!r}{refusals}")

    def _served_default(self, names: list[str]) -> str:
        """Return the default model if it is among `names`, those that are served.

        Raises:
            NotFound: it is not, or there is none; what the client did not send is not quoted to it.
            Unavailable: it is being loaded.
        """
        default = self.default_name()
        if default in names:
            return default
        if any(absent.name == default and absent.state == "loading" for absent in self._absent.values()):
            raise Unavailable("the default model must be loaded. Given: it is being loaded")
        reason = "the default model is not served, see /models" if default else "no model, and there is no default"
        raise NotFound(
            f"the request must name a model, one of {names}; --default-model (SERVICE_DEFAULT_MODEL) sets the one that "
            f"answers when none is named. Given: {reason}"
        )

    def _check_quarantine(self, name: str, version: str | None) -> None:
        """Refuse a version that is in quarantine, or a model of which no other version is served.

        Raises:
            Unavailable: with the reason.
        """
        is_served = any(model.name == name for model in self._models.values())
        for absent in self._absent.values():
            if absent.state != "quarantined" or absent.name != name:
                continue
            isolated = self._announced[name, absent.version]
            if (not is_served) if version is None else isolated.is_called(version):
                raise quarantined(absent)

    def in_quarantine(self) -> list[Absent]:
        """Return the versions that are in quarantine."""
        return [absent for absent in self._absent.values() if absent.state == "quarantined"]

    def _refusals(self, name: str, version: str | None) -> str:
        """Return why versions of `name` in the registry, or the one given, are not served.

        Raises:
            Unavailable: one is being loaded.
        """
        meant = [absent for absent in self._absent.values() if absent.name == name]
        if version is not None:
            meant = [absent for absent in meant if str(absent.version) == version]
        for absent in meant:
            if absent.state == "loading":
                raise Unavailable(f"{absent} must be loaded. Given: it is being loaded")
        return "".join(f"; {absent.state} {absent}: {absent.reason}" for absent in meant)


def quarantined(absent: Absent) -> Unavailable:
    """Return the answer to who asks for a version in quarantine."""
    return Unavailable(
        f"{absent} must not be in quarantine. Given: {absent.reason}",
        retry_after_seconds=QUARANTINE_RETRY_SECONDS,
    )
