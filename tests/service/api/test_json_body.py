"""JSON is refused by its depth and by how much it holds before it is parsed, whatever stands in its strings."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api import json_body
from service.api.json_body import MAX_DEPTH
from service.problems import BadRequest, TooLarge

MANY = 2**30
TOO_DEEP = "at most 32 arrays or objects in each other. Given: more"


def nested(depth: int, inner: str = "1") -> bytes:
    return ('[{"a":' * (depth // 2) + "[" * (depth % 2) + inner + "]" * (depth % 2) + "}]" * (depth // 2)).encode()


@pytest.mark.parametrize("depth", [0, 1, MAX_DEPTH - 1, MAX_DEPTH])
def test_what_is_at_most_as_deep_as_the_limit_is_parsed(depth: int) -> None:
    assert json_body.parse(nested(depth), MANY) == json.loads(nested(depth))


@pytest.mark.parametrize("body", [nested(MAX_DEPTH + 1), b"[" * 2**20, b'{"a":' * 5000], ids=["by one", "[", "{"])
def test_what_goes_deeper_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest, match=TOO_DEEP):
        json_body.parse(body, MANY)


@pytest.mark.parametrize("text", ["[" * 99, '"' + "[" * 99, "\\" + "{" * 99, '\\"' + "[" * 99, "\\\\"], ids=repr)
def test_brackets_in_a_string_or_a_key_are_not_deep(text: str) -> None:
    document = {text: [text, text]}

    assert json_body.parse(json.dumps(document).encode(), MANY) == document


def test_many_arrays_beside_each_other_are_not_deep() -> None:
    assert json_body.parse(b"[" + b",".join([b"[[]]"] * 1000) + b"]", MANY) == [[[]]] * 1000


def test_brackets_that_never_close_are_no_json() -> None:
    with pytest.raises(BadRequest, match=r"the body must be JSON\. Given: "):
        json_body.parse(b'["' + b"[" * 99, MANY)


@given(
    st.recursive(
        st.text('[]{}\\"x', max_size=5), lambda inner: st.lists(inner) | st.dictionaries(st.text('[}"'), inner)
    )
)
def test_any_shallow_document_is_parsed(document: object) -> None:
    assert json_body.parse(json.dumps([document] * 40).encode(), MANY) == [document] * 40


@pytest.mark.parametrize("value", [[1] * 10**6, "x" * 10**6, 10**300, {"a": {"b": {}}}, [[[[[[]]]]]]], ids=type)
def test_a_value_is_described_in_a_line(value: object) -> None:
    assert 0 < len(json_body.describe(value)) <= 60


@pytest.mark.parametrize("value", [None, "abc", [1, 2, 3], {"b64": ""}, [True, 2]], ids=repr)
def test_a_small_value_is_described_as_it_is(value: object) -> None:
    assert json_body.describe(value) == repr(value)


VALUES = st.recursive(st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.just("key"), inner))


def count(document: object) -> int:
    inside = document.values() if isinstance(document, dict) else document if isinstance(document, list) else ()
    return 1 + sum(map(count, inside))


@given(VALUES)
def test_a_document_with_more_values_than_the_limit_is_never_parsed(document: object) -> None:
    with pytest.raises(TooLarge, match="JSON must hold at most "):
        json_body.parse(json.dumps(document).encode(), count(document) - 1)


@pytest.mark.parametrize("shape", [(2,), (1, 28, 28), (3, 1, 1)])
def test_inputs_in_nested_arrays_are_within_their_limit(shape: tuple[int, ...]) -> None:
    inputs = np.zeros((5, *shape), int).tolist()

    assert json_body.parse(json.dumps(inputs).encode(), json_body.most_values(5, shape) + 1) == inputs
