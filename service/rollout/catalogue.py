"""The catalogue: which of the registry's versions a worker should serve, verified and loaded.

A version that cannot serve is refused and logged once; whatever is wrong with one model, the others are served, and
whatever is wrong with the registry, what is served stays.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Set
from typing import NamedTuple, Protocol

from service.contract.listing import ALIASES, PRODUCTION, Listings, ModelListing
from service.contract.registry import CorruptVersionError, RegistryError
from service.engine.absent import Absent
from service.engine.line_up import Entry, LineUp
from service.model.model import Load, Model, UnfitModelError
from service.rollout.mirror import Mirror, NotInCopyError

logger = logging.getLogger(__name__)

_REFUSALS = 20
"""Refused versions of one model that are reported at a time, the newest."""

_REASON_LENGTH = 1000


class OnLoad(Protocol):
    """Is called when a version was loaded, or refused."""

    def __call__(self, model: str, version: int, *, ok: bool, seconds: float) -> None: ...


def _ignore(model: str, version: int, *, ok: bool, seconds: float) -> None:
    del model, version, ok, seconds


class _Refusal(NamedTuple):
    reason: str
    tags: tuple[str, str] | None
    """The tags of the files that were refused for good, so that they are not read again; None to try again."""


class Catalogue:
    """Decides the line-up that a registry asks for.

    For each model these are its `listing.servable` versions. If production cannot serve, the version before it in the
    history answers by default. `on_load` hears of every attempt to load a version, but not again of one that is refused
    again. An artifact of more than `max_artifact_bytes` is not read. Models that are `unloaded` are left out.
    `choose` leaves of all models those that this worker serves, which may be none. A warning names the `required`
    models that the registry lacks.

    A version that answered by default and should serve no more stays for `grace_seconds`, because requests that named
    no version may be waiting for it.
    """

    def __init__(
        self,
        mirror: Mirror,
        load: Load,
        *,
        keep_versions: int,
        choose: Callable[[list[str]], list[str]] | None = None,
        required: Set[str] = frozenset(),
        on_load: OnLoad = _ignore,
        unloaded: Callable[[], Set[str]] = frozenset,
        max_artifact_bytes: int = 2**63,
        grace_seconds: float = 0.0,
    ) -> None:
        self._mirror = mirror
        self._load = load
        self._keep_versions = keep_versions
        self._on_load = on_load
        self._choose = choose
        self._required = required
        self._missing: Set[str] = frozenset()
        self._unloaded = unloaded
        self._left_out: list[Absent] = []  # of the models that are unloaded
        self._max_artifact_bytes = max_artifact_bytes
        self._grace_seconds = grace_seconds
        self._leaving: dict[str, tuple[int, float]] = {}  # name -> the default before this one, and until when it stays
        self._listings: Listings = {}
        self._loaded: dict[str, dict[int, Model]] = {}
        self._defaults: dict[str, int] = {}
        self._refused: dict[str, dict[int, _Refusal]] = {}
        self._told: dict[tuple[str, int | str], str] = {}  # the reasons that were logged last
        self._met: set[tuple[str, int]] = set()  # versions that were refused since the last look
        self._not_in_copy: dict[tuple[str, int], str] = {}  # versions that only the registry has, if anything does

    def line_up(self, on_progress: Callable[[LineUp], None] = lambda _line_up: None) -> LineUp:
        """Look at the registry, load what is new, and return what should be served from now on.

        Meanwhile `on_progress` hears what is served already and which versions are still being loaded.

        Raises:
            RegistryError: the registry cannot be read, or nothing in it can serve and nothing served before.
        """
        return self._follow(self._mirror.look(), on_progress)

    def first_line_up(self, name: str) -> LineUp:
        """Load the model `name` alone, so that it is served while `line_up` loads the others.

        These are announced as loading. If `name` is not there or cannot serve, everything is loaded. If the registry
        cannot be read, it is as it was last known.

        Raises:
            RegistryError: the registry cannot be read and nothing is known of it, or nothing in it can serve.
        """
        try:
            listings = self._mirror.look_patiently()
        except RegistryError as error:
            return self._restored_after(error)
        self._begin(listings)
        if name in self._listings:
            self._load_default(name)
        if not self._loaded.get(name):
            return self._follow(listings)
        return self._line_up(loading=True)

    def restored(self) -> LineUp:
        """Load everything as it was last known; ask the registry only if the local copy lacks what was served.

        What else the copy lacks is announced as loading: `line_up` asks the registry for it.

        Raises:
            RegistryError: neither the copy nor the registry has a version that can serve.
        """
        listings = self._mirror.last_known()
        if listings is None:
            return self.line_up()
        try:
            found = self._follow(listings)
        except RegistryError:
            return self.line_up()
        if not self._lacks_defaults():
            return self._line_up(loading=True)
        try:
            return self._follow(self._mirror.look_patiently())
        except RegistryError as error:
            logger.error("the registry cannot be read, and the local copy lacks some of its models: %s", error)
            return found

    def without_registry(self, line_up: LineUp) -> LineUp:
        """Return what is left of a line-up while the registry cannot be read.

        That is all but the models that were unloaded since; what the local copy lacks is not waited for.
        """
        names = self._unloaded()
        told = {absent.name for absent in line_up.absent if absent.state == "unloaded"}
        defaults = [entry.model.manifest for entry in line_up.served if entry.default]
        return LineUp(
            tuple(entry for entry in line_up.served if entry.model.manifest.name not in names),
            (
                *(self._no_longer_awaited(absent) for absent in line_up.absent if absent.name not in names - told),
                *(_unloaded_version(found.name, found.version) for found in defaults if found.name in names),
            ),
        )

    def _no_longer_awaited(self, absent: Absent) -> Absent:
        reason = self._not_in_copy.get((absent.name, absent.version))
        if absent.state != "loading" or reason is None:
            return absent
        is_production = self._listings[absent.name].production() == absent.version
        return absent.model_copy(update={"state": "refused", "reason": reason, "is_production": is_production})

    def _restored_after(self, error: RegistryError) -> LineUp:
        """Load what was last known in place of a registry that cannot be read for the reason given."""
        listings = self._mirror.last_known()
        if listings is None:
            raise error
        logger.error("the registry cannot be read; what it last held is served from the local copy: %s", error)
        return self._follow(listings)

    def _lacks_defaults(self) -> bool:
        """Return whether a model that has served before does not now."""
        return any(
            not self._loaded.get(name) and any(self._mirror.has_served(name, version) for version in listing.versions)
            for name, listing in self._listings.items()
        )

    def _follow(self, listings: Listings, on_progress: Callable[[LineUp], None] = lambda _line_up: None) -> LineUp:
        self._begin(listings)
        if self._loading():
            on_progress(self._line_up(loading=True))
        for (
            name
        ) in self._listings:  # first what answers by default, so that no model waits for other models' old versions
            self._load_default(name)
        if self._loading():
            on_progress(self._line_up(loading=True))
        for name, listing in self._listings.items():
            self._load_others(name, listing)
        if not any(self._loaded.values()) and self._choose is None:
            raise RegistryError(
                f"{self._mirror.url} must hold a version that can serve. Given: {list(listings)}. "
                "Publish one with: python -m training train RECIPE --publish"
            )
        self._mirror.remember(listings)
        return self._line_up()

    def _begin(self, listings: Listings) -> None:
        """Take a listing over: forget models that are gone or unloaded, and log what is wrong with others' files."""
        if (missing := self._required - listings.keys()) != self._missing:
            self._missing = missing
            if missing:
                lacking = ", ".join(sorted(missing))
                logger.warning(
                    "required models must be in the registry, or the service is not ready. Missing: %s", lacking
                )
        unloaded = self._unloaded()
        left_out = [(name, listing) for name, listing in listings.items() if name in unloaded]
        self._left_out = [
            _unloaded_version(name, listing.production() if listing.versions else 0) for name, listing in left_out
        ]
        names = [name for name in listings if name not in unloaded]
        listings = {name: listings[name] for name in (self._choose(names) if self._choose else names)}
        self._listings = listings
        for kept in (self._loaded, self._refused, self._defaults, self._leaving):
            for name in kept.keys() - listings.keys():
                del kept[name]
        self._met.clear()
        self._not_in_copy.clear()
        faults = {(name, path): why for name, listing in listings.items() for path, why in listing.faults.items()}
        for (name, path), reason in faults.items():
            if self._told.get((name, path)) != reason:
                self._told[name, path] = reason
                logger.error("a file of %s is left out: %s", name, reason)
        versions = {(name, version) for name, listing in listings.items() for version in listing.versions}
        self._told = {key: reason for key, reason in self._told.items() if key in faults or key in versions}

    def _load_default(self, name: str) -> None:
        """Load the version of a model that answers by default: production, or what stands in for it."""
        listing = self._listings[name]
        for version in listing.defaults() if listing.versions else ():
            if self._find(name, version):
                before = self._defaults.get(name, version)
                if before != version:
                    self._leaving[name] = before, time.monotonic() + self._grace_seconds
                self._defaults[name] = version
                return

    def _load_others(self, name: str, listing: ModelListing) -> None:
        """Load the other versions of a model that serve, and let go of those that do no longer."""
        wanted = {*(listing.servable(self._keep_versions) if listing.versions else ())}
        for version in sorted(wanted, reverse=True):
            self._find(name, version)
        loaded = self._loaded.get(name, {})
        wanted.add(self._defaults.get(name, 0))
        leaving, until = self._leaving.get(name, (0, 0.0))
        if time.monotonic() < until:
            wanted.add(leaving)
        for version in loaded.keys() - wanted:
            del loaded[version]
        refused = self._refused.get(name, {})
        for version in [version for version in refused if (name, version) not in self._met]:
            del refused[version]

    # One version

    def _find(self, name: str, version: int) -> Model | None:
        """Return the model of a version, loaded now unless it is there already; None if it cannot serve."""
        if model := self._loaded.get(name, {}).get(version):
            return model
        files = self._listings[name].versions.get(version)
        tags = files.tags if files else None
        before = self._refused.get(name, {}).get(version)
        if (name, version) in self._met or (before and before.tags and before.tags == tags):
            self._met.add((name, version))
            return None
        if (name, version) in self._not_in_copy:
            return None
        started = time.monotonic()
        try:
            model = self._loaded_now(name, version)
        except NotInCopyError as error:
            self._not_in_copy[name, version] = str(error)  # not logged or counted: the registry may have it
            return None
        except RegistryError as error:
            # A file that could not be read may be readable the next time although it is the same.
            self._refuse(name, version, str(error), tags if isinstance(error, CorruptVersionError) else None, started)
            return None
        except UnfitModelError as error:
            self._refuse(name, version, str(error), tags, started)
            return None
        except Exception as error:  # whatever is wrong with one version must not keep the others from being served
            logger.exception("loading %s@%d met a bug", name, version)
            self._refuse(name, version, f"loading it met a bug: {type(error).__name__}: {error}", tags, started)
            return None
        self._loaded.setdefault(name, {})[version] = model
        self._refused.get(name, {}).pop(version, None)
        self._told.pop((name, version), None)
        self._on_load(name, version, ok=True, seconds=time.monotonic() - started)
        return model

    def _loaded_now(self, name: str, version: int) -> Model:
        manifest = self._mirror.manifest(name, version)
        size = manifest.artifact.size_bytes
        if size > self._max_artifact_bytes:
            raise UnfitModelError(
                f"{manifest.name}@{version}: its artifact must have at most {self._max_artifact_bytes:,} bytes. "
                f"Given: {size:,}"
            )
        model = self._load(manifest, self._mirror.artifact(manifest))
        self._mirror.keep(manifest)
        return model

    def _refuse(self, name: str, version: int, reason: str, tags: tuple[str, str] | None, started: float) -> None:
        reason = reason[:_REASON_LENGTH]
        self._met.add((name, version))
        self._refused.setdefault(name, {})[version] = _Refusal(reason, tags)
        if self._told.get((name, version)) != reason:
            self._told[name, version] = reason
            logger.error("refused %s@%d: %s", name, version, reason)
            self._on_load(name, version, ok=False, seconds=time.monotonic() - started)

    # What to say of it

    def _line_up(self, *, loading: bool = False) -> LineUp:
        """Return what is served; with `loading` also what is about to be loaded."""
        served = tuple(
            Entry(model, version == self._defaults.get(name), self._aliases_of(name, version))
            for name, models in sorted(self._loaded.items())
            for version, model in sorted(models.items(), reverse=True)
        )
        awaited = self._loading() if loading else []
        return LineUp(served, (*awaited, *self._absent({(each.name, each.version) for each in awaited})))

    def _aliases_of(self, name: str, version: int) -> tuple[str, ...]:
        return tuple(alias for alias, number in self._listings[name].aliases.items() if number == version)

    def _loading(self) -> list[Absent]:
        """Return the versions that are about to be loaded: neither served nor refused before."""
        return [
            Absent(name=name, version=version, state="loading")
            for name, listing in self._listings.items()
            for version in (listing.servable(self._keep_versions) if listing.versions else ())
            if version not in self._loaded.get(name, {}) and version not in self._refused.get(name, {})
        ]

    def _absent(self, awaited: Set[tuple[str, int]]) -> list[Absent]:
        """Return the versions that were refused or unloaded, and what is wrong with each model's other files.

        A version that the local copy lacks is refused unless it is `awaited`.
        """
        found = [*self._left_out]
        for name, listing in self._listings.items():
            production = listing.production() if listing.versions else None
            refused = {version: refusal.reason for version, refusal in self._refused.get(name, {}).items()}
            refused |= {
                version: reason
                for (model, version), reason in self._not_in_copy.items()
                if model == name and (name, version) not in awaited
            }
            others = []
            for path, reason in listing.faults.items():
                version = path.partition("/")[0]
                if version.isascii() and version.isdecimal() and len(version) < 10:
                    refused.setdefault(int(version), reason)
                else:
                    others.append(reason)
            newest = sorted(refused, key=lambda version: (version == production, version))[-_REFUSALS:]
            found += [
                Absent(
                    name=name,
                    version=version,
                    state="refused",
                    reason=refused[version],
                    is_production=version == production,
                )
                for version in sorted(newest)
            ]
            if others:
                lost = f"{ALIASES}/{PRODUCTION}" in listing.faults and PRODUCTION not in listing.aliases
                reason = "; ".join(sorted(others))[:_REASON_LENGTH]
                found.append(Absent(name=name, state="refused", reason=reason, is_production=lost))
        return found


def _unloaded_version(name: str, version: int) -> Absent:
    return Absent(name=name, version=version, state="unloaded", reason="an administrator unloaded the model")
