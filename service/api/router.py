"""Which route answers which request, and the shape of refusals. It is the `Application` of the HTTP server."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from functools import lru_cache
from typing import Any

from service.api.auth import ApiKeyAuth
from service.http.messages import Later, Request, Response
from service.problems import ClientGone, MethodNotAllowed, NotFound, Problem
from service.telemetry.observer import Observer

logger = logging.getLogger(__name__)

Answer = Callable[[Request], Response | Later | Awaitable[Response]]
"""Answers a request; raises Problem to refuse it, ClientGone when nobody waits any more."""

Refuse = Callable[..., Response]
"""Shapes a problem, and headers behind it, as an answer."""

_REMEMBERED_PATHS, _REMEMBERED_CHARACTERS = 1024, 256
"""What matched a pattern is remembered for so many paths of that length: paths are few, but clients choose them."""


class Route:
    """A method and a path, in which `{name}` stands for one segment, and what answers there.

    `check` may refuse a request by its head. A route with `abandon` looks after the whole life of a request: `abandon`
    is told when one that passed `check` is refused or left by its client before its body has come, and the answers of
    `answer` are complete. Only such a route may answer later without a coroutine.
    """

    __slots__ = ("abandon", "answer", "check", "method", "path")

    def __init__(
        self,
        method: str,
        path: str,
        answer: Answer,
        check: Callable[[Request], None] | None = None,
        abandon: Callable[[Request, type[Problem | ClientGone]], None] | None = None,
    ) -> None:
        self.method = method
        self.path = path
        self.answer = answer
        self.check = check
        self.abandon = abandon


class Router:
    """Finds the route of each request. GET routes take HEAD too; it is the server that leaves the body out."""

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
        self._routes: dict[tuple[str, str], Route] = {}
        self._patterns: dict[str, list[tuple[re.Pattern[str], Route]]] = {}  # by method
        for route in routes:
            if "{" in route.path:
                self._patterns.setdefault(route.method, []).append((_pattern(route.path), route))
            else:
                self._routes[route.method, route.path] = route
                if route.method == "GET":
                    self._routes["HEAD", route.path] = route
        self._auth = auth
        self._observer = observer
        self._refuse = refuse
        self._refuse_below = refuse_below
        self._remembered_match = lru_cache(_REMEMBERED_PATHS)(self._match)

    # Application

    def check(self, request: Request) -> None:
        """Find the request's route and let it look at the head.

        Raises:
            Problem: the request has no key, no route, or is refused by its route.
        """
        if self._auth and (problem := self._auth.refusal(request)):
            self._observer.turned_away(request, problem)
            raise problem
        route = self._routes.get((request.method, request.path)) or self._matching(request)
        request.route = route
        if route.check:
            route.check(request)

    def answer(self, request: Request) -> Response | Later | Coroutine[Any, Any, Response]:
        """Answer a request that passed `check`; what its route raises becomes an answer, too."""
        route: Route = request.route
        if route.abandon:
            return route.answer(request)  # type: ignore[return-value] # a coroutine raises nothing but ClientGone
        try:
            answer = route.answer(request)
        except Exception as error:  # noqa: BLE001 - `_failed` logs what is no refusal
            return self._failed(request, error)
        if isinstance(answer, Response):
            return self._identified(request, answer)
        assert not isinstance(answer, Later)  # noqa: S101 - see `Route`
        return self._awaited(request, answer)

    def refusal(self, request: Request | None, problem: Problem) -> Response:
        """Return the answer to a request that is refused; without one, nothing could be read."""
        if request is None:
            return self._refuse(problem)
        if request.route and request.route.abandon:
            request.route.abandon(request, type(problem))
        return self._refused(request, problem)

    def left(self, request: Request) -> None:
        """Note that the client left before its body had come."""
        if request.route and request.route.abandon:
            request.route.abandon(request, ClientGone)

    # Answers

    async def _awaited(self, request: Request, answer: Awaitable[Response]) -> Response:
        try:
            return self._identified(request, await answer)
        except ClientGone:
            raise
        except Exception as error:  # noqa: BLE001 - `_failed` logs what is no refusal
            return self._failed(request, error)

    def _failed(self, request: Request, error: Exception) -> Response:
        if not isinstance(error, Problem):
            logger.error("request %s to %s met a bug", request.id, request.path, exc_info=error)
            error = Problem(f"this is a bug; the log has it as {request.id}")
        return self._refused(request, error)

    def _identified(self, request: Request, response: Response) -> Response:
        return response.with_header(request.id_header())

    def _refused(self, request: Request, problem: Problem) -> Response:
        for prefix, refuse in self._refuse_below.items():
            if request.path == prefix or request.path.startswith(f"{prefix}/"):
                return refuse(problem, request.id_header())
        return self._refuse(problem, request.id_header())

    # Routes

    def _matching(self, request: Request) -> Route:
        """Return the route whose pattern the path matches, and set the request's parameters.

        Raises:
            NotFound, MethodNotAllowed: there is none.
        """
        path, method = request.path, "GET" if request.method == "HEAD" else request.method
        match = self._remembered_match if len(path) <= _REMEMBERED_CHARACTERS else self._match
        if found := match(method, path):
            route, request.parameters = found
            return route
        allowed = {known for known, own in self._routes if own == path}
        for known, patterns in self._patterns.items():
            if any(pattern.fullmatch(path) for pattern, _ in patterns):
                allowed |= {known, "HEAD"} if known == "GET" else {known}
        if not allowed:
            raise NotFound(f"the path must be one that /docs lists. Given: {path[:200]!r}")
        raise MethodNotAllowed(path, request.method, sorted(allowed))

    def _match(self, method: str, path: str) -> tuple[Route, Mapping[str, str]] | None:
        """Return the route whose pattern a path matches, and the path's parameters."""
        for pattern, route in self._patterns.get(method, ()):
            if found := pattern.fullmatch(path):
                return route, found.groupdict()
        return None


def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(path)))
