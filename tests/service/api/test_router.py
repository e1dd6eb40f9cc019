"""Each request reaches its handler, and one that has none is refused in the shape of the protocol that it spoke."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from service.api.auth import ApiKeyAuth
from service.api.keys import Keys, make
from service.api.quotas import Quotas
from service.api.router import Route, Router
from service.http.messages import Header, Request, Response, problem_response
from service.problems import BadRequest, ClientGone, Problem
from service.telemetry.observer import Observer
from tests.service.api.asking import answer, request


class Counter:
    def __init__(self) -> None:
        self.turned: list[int] = []

    def turned_away(self, request: Request, problem: Problem) -> None:
        self.turned.append(problem.status)


async def echo(request: Request) -> Response:
    return Response(200, repr((request.path, dict(request.parameters))).encode())


def at_once(request: Request) -> Response:
    if request.path == "/bug":
        raise KeyError("a bug")
    if request.path == "/bad":
        raise BadRequest("it must be good. Given: bad")
    return Response(200, b"at once")


def refuse_below(problem: Problem, *headers: Header) -> Response:
    allow = (b"allow", problem.headers.get("allow", "").encode())
    return Response(problem.status, b"below", headers=(*headers, allow))


class Life:
    """A route that looks after the whole life of its requests."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def check(self, request: Request) -> None:
        self.told.append("check")
        if request.raw_query:
            raise BadRequest("the query must be empty. Given: more")

    async def answer(self, _: Request) -> Response:
        return Response(200, b"whole")

    def abandon(self, _: Request, failure: type[Problem | ClientGone]) -> None:
        self.told.append(failure)


def router(auth: ApiKeyAuth | None = None, counter: Counter | None = None, life: Life | None = None) -> Router:
    life = life or Life()
    routes = [
        Route("GET", "/at-once", at_once),
        Route("GET", "/bug", at_once),
        Route("GET", "/bad", at_once),
        Route("POST", "/life", life.answer, life.check, life.abandon),
        Route("GET", "/a", echo),
        Route("POST", "/a", echo),
        Route("GET", "/v2/models/{model}", echo),
        Route("GET", "/v2/models/{model}/versions/{version}", echo),
        Route("POST", "/v2/models/{model}/infer", echo),
    ]
    observer = cast("Observer", counter or Counter())
    return Router(routes, auth, observer, refuse=problem_response, refuse_below={"/v2": refuse_below})


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


def test_a_path_that_was_asked_for_before_has_its_own_parameters_again() -> None:
    subject = router()
    names = ["m", "n", "m", "n" * 300]

    found = [answer(subject, "GET", f"/v2/models/{name}").body for name in names]

    assert found == [repr((f"/v2/models/{name}", {"model": name})).encode() for name in names]


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
    subject = router(ApiKeyAuth(Keys(tmp_path / "keys"), Quotas(tmp_path)), counter)

    statuses = [answer(subject, "GET", path).status for path in ("/a", "/nope", "/v2/models/m")]

    assert statuses == [401, 401, 401]
    assert counter.turned == [401, 401, 401]
    assert answer(subject, "GET", "/a", **{"x-api-key": key}).status == 200


def test_what_a_handler_raises_is_answered_with_the_requests_id(caplog: pytest.LogCaptureFixture) -> None:
    good, bad, bug = (answer(router(), "GET", path, **{"x-request-id": "7"}) for path in ("/at-once", "/bad", "/bug"))

    assert [response.status for response in (good, bad, bug)] == [200, 400, 500]
    assert all((b"x-request-id", b"7") in response.headers for response in (good, bad, bug))
    assert b"this is a bug; the log has it as 7" in bug.body
    assert "KeyError: 'a bug'" in caplog.text


def test_a_route_with_a_life_of_its_own_is_told_how_each_request_ends() -> None:
    life = Life()
    subject = router(life=life)
    late, left = request("POST", "/life"), request("POST", "/life")

    whole = answer(subject, "POST", "/life")
    refused = answer(subject, "POST", "/life?a=b")
    for asked in (late, left):
        subject.check(asked)
    subject.refusal(late, BadRequest("it must be there. Given: nothing"))
    subject.left(left)

    assert (whole.status, whole.body, refused.status) == (200, b"whole", 400)
    assert life.told == ["check", "check", BadRequest, "check", "check", BadRequest, ClientGone]


def test_bytes_that_are_no_request_are_refused_without_one() -> None:
    assert router().refusal(None, BadRequest("it must be HTTP. Given: noise")).status == 400
