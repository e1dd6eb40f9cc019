"""Changes to what is served, for keys with the scope admin: load and unload a model, promote and roll back a version.

Loading and unloading hold for this service until it ends. A promotion changes the registry, which every service that
reads it follows.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from service.api import json_body
from service.api.auth import require_admin
from service.api.response import json_response
from service.api.router import Route
from service.contract.model_folder import open_registry
from service.contract.registry import CorruptVersionError, NotInRegistryError, Registry, RegistryError
from service.contract.signatures import TrustedKeys
from service.engine.dispatcher import Dispatcher
from service.http.messages import Request, Response
from service.problems import Conflict, DeadlineExceeded, NotFound, Unavailable, Unprocessable
from service.rollout.unloaded import Unloaded
from service.settings import Settings

Outcome = TypeVar("Outcome")

_LOOK_SECONDS = 0.05
_STALE_SECONDS = 2.0
"""A refusal that is known may be of the time before the workers looked again."""

_BODY_VALUES = 16


class Administration:
    """What administrators may change, for every protocol; the callers see to it that the key is theirs."""

    def __init__(self, dispatcher: Dispatcher, unloaded: Unloaded, settings: Settings) -> None:
        self._dispatcher = dispatcher
        self._unloaded = unloaded
        self._settings = settings
        self._load_seconds = settings.startup_seconds

    def routes(self) -> list[Route]:
        return [
            Route("POST", "/models/{name}/promote", self._promote, require_admin),
            Route("POST", "/models/{name}/rollback", self._rollback, require_admin),
        ]

    async def load(self, name: str) -> None:
        """Serve a model (again), in the version that the registry asks for now; return once it is served.

        Raises:
            NotFound: the registry has no such model.
            Unprocessable: the version is refused.
            DeadlineExceeded: it is still being loaded.
            Conflict, Unavailable: as `_in_registry`.
        """
        version = await self._in_registry(lambda registry: registry.resolve(name))
        await asyncio.to_thread(self._unloaded.load, name)
        asked = time.monotonic()
        while not self._is_served(name, version):
            waited = time.monotonic() - asked
            if waited > _STALE_SECONDS:
                self._check_not_refused(name, version)
            if waited > self._load_seconds:
                raise DeadlineExceeded(
                    f"{name}@{version} must be loaded within {self._load_seconds:g} s. Given: it is still being loaded"
                )
            await asyncio.sleep(_LOOK_SECONDS)

    async def unload(self, name: str) -> None:
        """Stop serving a model, until it is loaded again or the service ends; return once it is not served.

        Raises:
            NotFound: nobody knows such a model.
            Conflict: it is the last one that is served.
            DeadlineExceeded: it is still served, because the workers have not heard of it.
        """
        served = self._dispatcher.served
        if name not in {model.name for model in served.models()} | {absent.name for absent in served.absent()}:
            raise NotFound(f"model must be one of {sorted({model.name for model in served.models()})}. Given: {name!r}")

        def check_not_last(unloaded: frozenset[str]) -> None:
            if {model.name for model in served.models()} <= unloaded:
                raise Conflict(f"a service must serve some model. Given: {name} is the last; stop the service instead")

        await asyncio.to_thread(self._unloaded.unload, name, may=check_not_last)
        asked = time.monotonic()
        while any(model.name == name for model in served.models()):
            if time.monotonic() - asked > self._load_seconds:
                raise DeadlineExceeded(
                    f"{name} must be unloaded within {self._load_seconds:g} s. Given: it is still served"
                )
            await asyncio.sleep(_LOOK_SECONDS)

    def _is_served(self, name: str, version: int) -> bool:
        found = [model for model in self._dispatcher.served.models() if model.key == (name, version)]
        return any(map(self._dispatcher.is_ready, found))

    def _check_not_refused(self, name: str, version: int) -> None:
        for absent in self._dispatcher.served.absent():
            if (absent.name, absent.version, absent.state) == (name, version, "refused"):
                raise Unprocessable(f"{name}@{version} must be fit to serve. Given: it was refused: {absent.reason}")

    # What is production

    async def _promote(self, request: Request) -> Response:
        name = request.parameters["name"]
        wanted = _version_in(request.body)

        def promote(registry: Registry) -> list[int]:
            version = registry.resolve(name, wanted)
            self._check_not_refused(name, version)
            return registry.promote(name, version)

        history = await self._in_registry(promote)
        return await self._answer(name, history)

    async def _rollback(self, request: Request) -> Response:
        name = request.parameters["name"]
        json_body.parse_object(request.body, _BODY_VALUES)  # no key of it means anything

        def roll_back(registry: Registry) -> list[int]:
            registry.rollback(name)
            return registry.history(name)

        return await self._answer(name, await self._in_registry(roll_back))

    async def _answer(self, name: str, history: list[int]) -> Response:
        await asyncio.to_thread(self._unloaded.nudge)
        return json_response({"model": name, "production": history[-1], "history": history})

    @cached_property
    def _registry(self) -> Registry:
        settings = self._settings
        trusted = TrustedKeys.read(Path(settings.trusted_keys)) if settings.trusted_keys else None
        return open_registry(settings.registry, settings.model_dir, settings.model_name, trusted)

    async def _in_registry(self, work: Callable[[Registry], Outcome]) -> Outcome:
        """Do something in the registry, on a thread.

        Raises:
            NotFound: it has no such model or version.
            Unprocessable: the version is damaged.
            Conflict: it cannot be written from here.
            Unavailable: it cannot be read.
        """
        try:
            return await asyncio.to_thread(lambda: work(self._registry))
        except NotInRegistryError as error:
            raise NotFound(str(error)) from error
        except CorruptVersionError as error:
            raise Unprocessable(str(error)) from error
        except RegistryError as error:
            if "must be writable" not in str(error):
                raise Unavailable(str(error)) from error
            raise Conflict(
                f"{error}. This service may only read the registry; promote where it may be written, "
                "with python -m training promote or rollback"
            ) from error


def _version_in(body: bytes) -> int | str:
    """Return the version, a number or an alias, that a promotion asks for.

    Raises:
        BadRequest, TooLarge: the body is no JSON, or too much of it.
        Unprocessable: it is no such document.
    """
    document = json_body.parse(body, _BODY_VALUES)
    version: Any = document.get("version") if isinstance(document, dict) and set(document) == {"version"} else None
    if isinstance(version, bool) or not isinstance(version, int | str) or version == "":
        raise Unprocessable(
            f'the body must be {{"version": a number or an alias}}. Given: {json_body.describe(document)}'
        )
    return version
