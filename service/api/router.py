"""Which handler answers which request; refusals without a handler have the shape of the protocol that was spoken."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, NamedTuple

from service.api.auth import ApiKeyAuth
from service.api.request import Head, Request
from service.api.response import Response
from service.problems import MethodNotAllowed, NotFound, Problem
from service.telemetry.observer import Observer

Handler = Callable[[Request], Coroutine[Any, Any, Response]]
"""Answers a request; raises ClientGone when nobody waits for it any more, and nothing else."""

Refuse = Callable[[Problem], Response]
"""Shapes a problem as an answer."""


class Route(NamedTuple):
    """A method and a path, in which `{name}` stands for one segment, and what answers there."""

    method: str
    path: str
    handle: Handler


class Router:
    """Answers every request. GET routes take HEAD too; it is the server that leaves the body out."""

    def __init__(
        self,
        routes: Iterable[Route],
        auth: ApiKeyAuth | None,
        observer: Observer,
        *,
        refuse: Refuse,
        refuse_below: dict[str, Refuse],
    ) -> None:
        """`refuse_below` maps path prefixes to the shape of refusals there."""
        self._handlers: dict[tuple[str, str], Handler] = {}
        self._patterns: list[tuple[re.Pattern[str], Route]] = []
        for route in routes:
            if "{" in route.path:
                self._patterns.append((_pattern(route.path), route))
            else:
                self._handlers[route.method, route.path] = route.handle
        self._auth = auth
        self._observer = observer
        self._refuse = refuse
        self._refuse_below = refuse_below

    def handle(self, request: Request) -> Coroutine[Any, Any, Response]:
        """Return the coroutine that answers a request; it raises ClientGone when nobody waits any more."""
        head = request.head
        if self._auth and (problem := self._auth.refusal(head)):
            self._observer.turned_away(problem)
            return self._refused(head, problem)
        if handler := self._handlers.get((head.method, head.path)):
            return handler(request)
        return self._handle_seldom(request)

    def _handle_seldom(self, request: Request) -> Coroutine[Any, Any, Response]:
        head = request.head
        method = "GET" if head.method == "HEAD" else head.method
        allowed = {known for known, path in self._handlers if path == head.path}
        if method in allowed:
            return self._handlers[method, head.path](request)
        for pattern, route in self._patterns:
            if found := pattern.fullmatch(head.path):
                if route.method == method:
                    return route.handle(request._replace(parameters=found.groupdict()))
                allowed.add(route.method)
        if not allowed:
            return self._refused(head, NotFound(f"the path must be one that /docs lists. Given: {head.path!r}"))
        if "GET" in allowed:
            allowed.add("HEAD")
        return self._refused(head, MethodNotAllowed(head.path, head.method, sorted(allowed)))

    async def _refused(self, head: Head, problem: Problem) -> Response:
        for prefix, refuse in self._refuse_below.items():
            if head.path == prefix or head.path.startswith(f"{prefix}/"):
                return refuse(problem)
        return self._refuse(problem)


def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(path)))
