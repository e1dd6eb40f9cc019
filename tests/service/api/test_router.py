"""Each request reaches its handler, and one that has none is refused in the shape of the protocol that it spoke."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

import pytest

from service.api.auth import ApiKeyAuth
from service.api.keys import Keys, make
from service.api.request import Head, Request
from service.api.response import Response, problem_response
from service.api.router import Route, Router
from service.problems import Problem
from service.telemetry.observer import Observer


class Client:
    disconnected = False


class Counter:
    def __init__(self) -> None:
        self.turned: list[int] = []

    def turned_away(self, problem: Problem) -> None:
        self.turned.append(problem.status)


async def echo(request: Request) -> Response:
    return Response(200, repr((request.head.path, dict(request.parameters))).encode())


def refuse_below(problem: Problem) -> Response:
    return Response(problem.status, b"below", headers=((b"allow", problem.headers.get("allow", "").encode()),))


def router(auth: ApiKeyAuth | None = None, counter: Counter | None = None) -> Router:
    routes = [
        Route("GET", "/a", echo),
        Route("POST", "/a", echo),
        Route("GET", "/v2/models/{model}", echo),
        Route("GET", "/v2/models/{model}/versions/{version}", echo),
        Route("POST", "/v2/models/{model}/infer", echo),
    ]
    observer = cast("Observer", counter or Counter())
    return Router(routes, auth, observer, refuse=problem_response, refuse_below={"/v2": refuse_below})


def answer(subject: Router, method: str, path: str, **headers: str) -> Response:
    return asyncio.run(_answer(subject, Request(Head(method, path, b"", headers.get), Client(), b"")))


async def _answer(subject: Router, request: Request) -> Response:
    return await subject.handle(request)


@pytest.mark.parametrize(
    ("method", "path", "parameters"),
    [
        ("GET", "/a", {}),
        ("HEAD", "/a", {}),
        ("POST", "/a", {}),
        ("GET", "/v2/models/m.1", {"model": "m.1"}),
        ("HEAD", "/v2/models/m", {"model": "m"}),
        ("GET", "/v2/models/m/versions/2", {"model": "m", "version": "2"}),
        ("POST", "/v2/models/m/infer", {"model": "m"}),
    ],
)
def test_a_request_reaches_its_handler(method: str, path: str, parameters: dict[str, str]) -> None:
    assert answer(router(), method, path).body == repr((path, parameters)).encode()


@pytest.mark.parametrize("path", ["/", "/a/", "/a/b", "/v3", "/v22"])
def test_an_unknown_path_is_a_problem(path: str) -> None:
    response = answer(router(), "GET", path)

    assert (response.status, response.media_type) == (404, b"application/problem+json")


@pytest.mark.parametrize("path", ["/v2", "/v2/nope", "/v2/models/", "/v2/models/a/b"])
def test_an_unknown_path_of_a_protocol_is_refused_in_its_shape(path: str) -> None:
    response = answer(router(), "GET", path)

    assert (response.status, response.body) == (404, b"below")


def test_another_method_is_refused_with_those_that_are_allowed() -> None:
    own, below = answer(router(), "PUT", "/a"), answer(router(), "GET", "/v2/models/m/infer")

    assert (own.status, dict(own.headers)[b"allow"]) == (405, b"GET, HEAD, POST")
    assert (below.status, dict(below.headers)[b"allow"]) == (405, b"POST")


def test_without_a_key_even_an_unknown_path_is_401_and_counted(tmp_path: Path) -> None:
    key, line = make("ci", frozenset({"predict"}))
    (tmp_path / "keys").write_text(f"{line}\n")
    counter = Counter()
    subject = router(ApiKeyAuth(Keys(tmp_path / "keys")), counter)

    statuses = [answer(subject, "GET", path).status for path in ("/a", "/nope", "/v2/models/m")]

    assert statuses == [401, 401, 401]
    assert counter.turned == [401, 401, 401]
    assert answer(subject, "GET", "/a", **{"x-api-key": key}).status == 200
