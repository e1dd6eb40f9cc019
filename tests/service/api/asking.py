"""Requests to a router without a connection: as a connection does, but at once."""

from __future__ import annotations

import asyncio

from service.api.router import Router
from service.http.messages import Later, Request, Response
from service.problems import Problem


class Present:
    """A client that stays."""

    disconnected = False


def request(method: str, target: str, **headers: str) -> Request:
    given = {name.encode(): value.encode() for name, value in headers.items()}
    path, _, query = target.partition("?")
    return Request(method, path, given, Present(), raw_query=query.encode())


def answer(router: Router, method: str, path: str, **headers: str) -> Response:
    """Answer a request without a body."""
    asked = request(method, path, **headers)
    try:
        router.check(asked)
    except Problem as problem:
        return router.refusal(asked, problem)
    found = router.answer(asked)
    assert not isinstance(found, Later), "what comes by a call needs a worker"
    return found if isinstance(found, Response) else asyncio.run(found)
