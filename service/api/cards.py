"""GET /models/NAME/VERSION/FILE: a version's card and its plots, read from the registry when they are asked for."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from functools import cache

from service.api.router import Route
from service.contract.registry import NotInRegistryError, Registry, RegistryError
from service.http.messages import Request, Response
from service.problems import NotFound, Unavailable

_FILE = re.compile(r"card\.md|[a-z0-9_]+\.png")
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")  # as the manifest's names are; none leads out of its folder
_VERSION = re.compile(r"[1-9][0-9]{0,8}")

_MEDIA_TYPES = {"md": b"text/markdown; charset=utf-8", "png": b"image/png"}
_HEADERS = (
    (b"cache-control", b"private, no-cache"),
    (b"content-security-policy", b"default-src 'none'; sandbox"),
    (b"x-content-type-options", b"nosniff"),
)


def route(open_registry: Callable[[], Registry]) -> Route:
    """Return the route that serves the cards of a registry, which is opened with the first request."""
    open_registry = cache(open_registry)

    async def send(request: Request) -> Response:
        name, version, file = (request.parameters[key] for key in ("name", "version", "file"))
        data = await asyncio.to_thread(_read, open_registry, name, version, file)
        return Response(200, data, _MEDIA_TYPES[file.rpartition(".")[2]], _HEADERS)

    return Route("GET", "/models/{name}/{version}/{file}", send)


def _read(open_registry: Callable[[], Registry], name: str, version: str, file: str) -> bytes:
    """Read a file of a version.

    Raises:
        NotFound: the registry has no such version, or the version no such file.
        Unavailable: the registry cannot be read.
    """
    if not (_NAME.fullmatch(name) and _VERSION.fullmatch(version) and _FILE.fullmatch(file)):
        raise NotFound(f"the path must name a model, a version and card.md or a .png. Given: {name}/{version}/{file}")
    try:
        return open_registry().file(name, int(version), file)
    except NotInRegistryError as error:
        raise NotFound(f"{name}@{version} must have a file {file}. Given: the registry has none") from error
    except RegistryError as error:
        raise Unavailable(str(error)) from error
