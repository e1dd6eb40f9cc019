"""Understand responses: answers, refusals in the service's words, and what others say in its place."""

from __future__ import annotations

from typing import Any

import httpx

from service.client.answers import Answer, answer_of
from service.client.errors import ClientError, Failed, error_of


def read_predictions(response: httpx.Response, count: int) -> list[Answer]:
    """Return the `count` answers of /predict.

    Raises:
        ClientError: they are not there.
    """
    if response.status_code != 200:
        raise error_in(response)
    document = document_of(response)
    try:
        about = document["model"], document["version"], _request_id(response) or ""
        answers = [answer_of(one, *about, index) for index, one in enumerate(document["predictions"])]
    except (KeyError, TypeError, AttributeError) as error:
        raise not_the_service(response) from error
    if len(answers) != count:
        raise Failed(
            f"the service must answer as often as it was asked, {count} times. Given: {len(answers)}",
            request_id=_request_id(response),
        )
    return answers


def document_of(response: httpx.Response) -> dict[str, Any]:
    """Return the JSON object of an answer.

    Raises:
        ClientError: it is none.
    """
    try:
        document = response.json()
    except (ValueError, RecursionError) as error:
        raise not_the_service(response) from error
    if not isinstance(document, dict):
        raise not_the_service(response)
    return document


def error_in(response: httpx.Response) -> ClientError:
    """Return the refusal in the service's words, or in a proxy's."""
    try:
        detail = str(response.json()["detail"])
    except (ValueError, RecursionError, KeyError, TypeError):
        return not_the_service(response)
    return error_of(response.status_code, detail, _request_id(response))


def not_the_service(response: httpx.Response) -> ClientError:
    """Return the error for an answer that is not this service's."""
    text = " ".join(response.text.split())
    detail = f"{response.url} must answer as the service does. Given: {response.reason_phrase} {text[:60]!r}"
    if response.status_code < 400:
        return Failed(detail, status=response.status_code, request_id=_request_id(response))
    return error_of(response.status_code, detail, _request_id(response))


def _request_id(response: httpx.Response) -> str | None:
    request_id: str | None = response.headers.get("x-request-id")
    return request_id
