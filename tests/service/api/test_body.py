"""Every form that inputs may come in, and what is said of every other."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.body import RAW_TYPES, Image, find_features, find_images
from service.contract.manifest import FeatureInput
from service.problems import BadRequest, Problem, TooLarge, Unprocessable, UnsupportedMediaType

JSON = "application/json"
FORM = "multipart/form-data; boundary=cut"
PAIR = FeatureInput(shape=(2,))
MAX = 3


def images(content_type: str, body: bytes) -> list[Image]:
    return find_images(content_type, body, MAX)


def features(body: object, content_type: str = JSON) -> list[list[float]]:
    encoded = body if isinstance(body, bytes) else json.dumps(body).encode()
    return np.frombuffer(find_features(content_type, encoded, PAIR, MAX), "<f4").reshape(-1, 2).tolist()


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def part(content: bytes, name: str = "file", filename: str | None = "a.png") -> bytes:
    disposition = f'form-data; name="{name}"' + (f'; filename="{filename}"' if filename is not None else "")
    return b"--cut\r\nContent-Disposition: " + disposition.encode() + b"\r\n\r\n" + content + b"\r\n"


END = b"--cut--\r\n"


# Images


@pytest.mark.parametrize("piece", [b"[]", b"{}", b'""', b"7", b"[[]]"])
def test_json_of_many_small_values_is_refused_by_their_number_before_it_is_parsed(piece: bytes) -> None:
    many = b",".join([piece] * 1000)

    with pytest.raises(TooLarge, match="JSON must hold at most 76 numbers"):
        images(JSON, b'{"images":[' + many + b"]}")
    with pytest.raises(TooLarge, match="JSON must hold at most 73 numbers"):
        features(b'{"features":[' + many + b"]}")


def test_as_many_data_urls_as_are_taken_are_not_too_many_values() -> None:
    body = json.dumps({"images": ["data:image/png;base64," + text(b"x")] * 1024}).encode()

    assert find_images(JSON, body, 1024) == [b"x"] * 1024


@pytest.mark.parametrize("content_type", [*sorted(RAW_TYPES), "IMAGE/PNG; charset=binary"])
def test_an_image_is_taken_as_it_is(content_type: str) -> None:
    assert images(content_type, b"\x89PNG") == [b"\x89PNG"]


def test_the_files_of_a_form_are_taken_in_order_whatever_they_are_called() -> None:
    body = part(b"first", "a") + part(b"text", "note", None) + part(b"second", "a", "") + part(b"third", "z") + END

    assert images(FORM, body) == [b"first", b"second", b"third"]


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ('Multipart/Form-Data; charset=utf-8; Boundary="cut"', part(b"x") + END),
        (FORM, b"a preamble\r\n" + part(b"x") + END + b"an epilogue"),
        (FORM, part(b"x").replace(b"Content-Disposition: ", b"Content-Type: image/png\r\ncontent-disposition:") + END),
        (FORM, part(b"x", name='a; filename=b"', filename="c").replace(b'b""', b'b\\""') + END),
        (FORM, part(b"x").replace(b'"', b"") + END),
        (FORM, part(b"x").replace(b'filename="a.png"', b"filename*=UTF-8''%e2%82%ac.png") + END),
        (FORM, part(b"x", filename="C:\\") + END),
    ],
    ids=["quoted boundary", "preamble", "other headers", "quotes", "no quotes", "extended name", "backslash"],
)
def test_a_form_may_be_written_in_other_ways(content_type: str, body: bytes) -> None:
    assert images(content_type, body) == [b"x"]


def test_a_file_may_hold_what_looks_like_a_boundary() -> None:
    content = b"--cut\r\n\r\n--cu\r\n--CUT\r\n"

    assert images(FORM, part(b"\n" + content) + END) == [b"\n" + content]


def test_a_field_that_only_speaks_of_a_filename_is_no_file() -> None:
    body = part(b"text", name='a"; x="; filename=b', filename=None) + part(b"x") + END

    assert images(FORM, body) == [b"x"]


def test_a_large_file_of_a_form_is_whole() -> None:
    large = bytes(range(256)) * 20_000

    assert images(FORM, part(large) + part(b"small") + END) == [large, b"small"]


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"image": text(b"one")}, [b"one"]),
        ({"image": f"data:image/png;base64,{text(b'one')}"}, [b"one"]),
        ({"images": [text(b"one")]}, [b"one"]),
        ({"images": [text(b"one"), f"data:;base64,{text(b'two')}", text(b"")]}, [b"one", b"two", b""]),
    ],
    ids=["one", "a data URL", "a list of one", "several"],
)
def test_json_holds_one_image_or_several(document: object, expected: list[bytes]) -> None:
    assert images(f"{JSON}; charset=utf-8", json.dumps(document).encode()) == expected


def test_a_bad_image_among_several_leaves_the_others_alone() -> None:
    found = images(JSON, json.dumps({"images": [text(b"one"), "%%%", 7]}).encode())

    assert found[0] == b"one"
    assert [type(problem) for problem in found[1:]] == [BadRequest, Unprocessable]


DEEP = b"[" * 25 + b"]" * 25

BAD_IMAGES = {
    "no type": ("", b"x", UnsupportedMediaType, "content-type must be one of application/octet-stream, image/bmp"),
    "no type, in its own words": ("", b"x", UnsupportedMediaType, "application/json. Given: none"),
    "another type": ("text/html", b"x", UnsupportedMediaType, "Given: 'text/html'"),
    "an image type that is not taken": ("image/tiff", b"x", UnsupportedMediaType, "Given: 'image/tiff'"),
    "an empty body as JSON": (JSON, b"", BadRequest, "the body must be JSON. Given: "),
    "broken JSON": (JSON, b'{"image":', BadRequest, "the body must be JSON. Given: "),
    "JSON in another encoding": (JSON, '{"image": ""}'.encode("utf-16"), BadRequest, "must be JSON. Given: "),
    "JSON that goes too deep": (
        JSON,
        b"[" * 33 + b"]" * 33,
        BadRequest,
        "of at most 32 arrays or objects in each other. Given: more",
    ),
    "a list": (JSON, b"[]", Unprocessable, 'a JSON object with "image" or "images" alone. Given: []'),
    "lists in each other": (JSON, DEEP, Unprocessable, "Given: [[[["),
    "another key": (JSON, b'{"picture": ""}', Unprocessable, "Given: the keys ['picture']"),
    "no key": (JSON, b"{}", Unprocessable, "Given: the keys []"),
    "a key too many": (JSON, b'{"image": "", "top_k": 3}', Unprocessable, "Given: the keys ['image', 'top_k']"),
    "both keys": (JSON, b'{"image": "", "images": []}', Unprocessable, "Given: the keys ['image', 'images']"),
    "a huge key": (JSON, json.dumps({"x" * 100_000: 1}).encode(), Unprocessable, "Given: the keys ['xxxx"),
    "no images": (JSON, b'{"images": []}', Unprocessable, '"images" must be a list of base64 strings, at least one'),
    "images that are no list": (JSON, b'{"images": "abc"}', Unprocessable, "Given: 'abc'"),
    "images that are null": (JSON, b'{"images": null}', Unprocessable, "Given: None"),
    "too many images": (JSON, b'{"images": ["", "", "", ""]}', TooLarge, "at most 3 inputs. Given: 4"),
    "a form without a boundary": ("multipart/form-data", b"x", BadRequest, "the form must be well-formed"),
    "a form that is none": (FORM, b"garbage", BadRequest, "the form must be well-formed"),
    "an empty form": (FORM, b"", BadRequest, "Given: one that is cut off"),
    "a form of nothing": (FORM, END, Unprocessable, "the form must hold at least one file. Given: none"),
    "a form of text": (FORM, part(b"x", filename=None) + END, Unprocessable, "at least one file. Given: none"),
    "a form without its end": (FORM, part(b"x"), BadRequest, "Given: one that is cut off"),
    "a form cut in a file": (FORM, part(b"x") + part(b"yyyy")[:-4], BadRequest, "Given: one that is cut off"),
    "a form with a file between boundaries": (FORM, part(b"x") + b"--cutter\r\n" + END, BadRequest, "without a head"),
    "a part that is no form's": (FORM, part(b"x").replace(b"form-data", b"attachment") + END, BadRequest, "a name"),
    "a nameless part": (FORM, b"--cut\r\n\r\nx\r\n" + END, BadRequest, "the form must be well-formed"),
    "a parameter as a field": (
        FORM,
        part(b"x") + part(b"mnist", name="model", filename=None) + END,
        BadRequest,
        "model must be in the URL, as ?model=... Given: a field of the form",
    ),
    "a file too many": (FORM, part(b"x") * 4 + END, TooLarge, "at most 3 inputs. Given: 4"),
    "many files too many": (FORM, part(b"x") * 50 + END, TooLarge, "at most 6 parts. Given: more"),
    "many fields": (FORM, part(b"x", filename=None) * 9 + part(b"x") + END, TooLarge, "at most 6 parts. Given: more"),
}


@pytest.mark.parametrize(("content_type", "body", "kind", "detail"), BAD_IMAGES.values(), ids=BAD_IMAGES.keys())
def test_a_bad_body_is_refused(content_type: str, body: bytes, kind: type[Problem], detail: str) -> None:
    with pytest.raises(kind) as refusal:
        images(content_type, body)

    assert detail in refusal.value.detail
    assert_grammar(refusal.value)


BASE64 = "an image must be base64, or a data URL with it. Given: "

BAD_ENTRIES = {
    "a number": ("7", Unprocessable, "an image must be a base64 string. Given: 7"),
    "null": ("null", Unprocessable, "an image must be a base64 string. Given: None"),
    "an object": ('{"b64": ""}', Unprocessable, "an image must be a base64 string. Given: {'b64': ''}"),
    "lists in each other": (DEEP.decode(), Unprocessable, "an image must be a base64 string. Given: [[[["),
    "other characters": ('"%%%"', BadRequest, BASE64 + "'%%%' ("),
    "letters beyond ASCII": ('"é"', BadRequest, BASE64 + "'é' ("),
    "wrong padding": ('"abc"', BadRequest, BASE64 + "'abc' ("),
}


@pytest.mark.parametrize("form", ['{"image": %s}', '{"images": [%s]}'], ids=["image", "images"])
@pytest.mark.parametrize(("entry", "kind", "detail"), BAD_ENTRIES.values(), ids=BAD_ENTRIES.keys())
def test_a_bad_image_is_a_problem_in_its_place(form: str, entry: str, kind: type[Problem], detail: str) -> None:
    (problem,) = images(JSON, (form % entry).encode())

    assert isinstance(problem, kind)
    assert problem.detail.startswith(detail)
    assert_grammar(problem)


# Features


def test_features_become_little_endian_floats_in_order() -> None:
    assert features({"features": [[1, 2.5], [-3e-3, 0]]}) == [[1, 2.5], [pytest.approx(-3e-3), 0]]


def test_the_largest_float_is_taken() -> None:
    largest = float(np.finfo(np.float32).max)

    assert features({"features": [[largest, -largest]]}) == [[largest, -largest]]


BAD_FEATURES = {
    "another type": ("image/png", b"x", UnsupportedMediaType, "a model of features takes application/json."),
    "broken JSON": (JSON, b"{", BadRequest, "the body must be JSON. Given: "),
    "NaN": (JSON, b'{"features": [[NaN, 1]]}', BadRequest, "the body must be JSON. Given: "),
    "an image": (JSON, b'{"image": ""}', Unprocessable, "with \"features\" alone. Given: the keys ['image']"),
    "no vectors": (JSON, b'{"features": []}', Unprocessable, "must be a list of lists of 2 numbers. Given: []"),
    "a flat vector": (JSON, b'{"features": [1, 2]}', Unprocessable, "must be a list of lists of 2 numbers. Given: 1"),
    "a number": (JSON, b'{"features": 1}', Unprocessable, "must be a list of lists of 2 numbers. Given: 1"),
    "a narrow vector": (JSON, b'{"features": [[1, 2], [1]]}', Unprocessable, "lists of 2 numbers. Given: [1]"),
    "a wide vector": (JSON, b'{"features": [[1, 2, 3]]}', Unprocessable, "lists of 2 numbers. Given: [1, 2, 3]"),
    "text": (JSON, b'{"features": [["1", 2]]}', Unprocessable, "lists of 2 numbers. Given: ['1', 2]"),
    "truth": (JSON, b'{"features": [[true, 2]]}', Unprocessable, "lists of 2 numbers. Given: [True, 2]"),
    "null": (JSON, b'{"features": [[null, 2]]}', Unprocessable, "lists of 2 numbers. Given: [None, 2]"),
    "vectors in each other": (JSON, b'{"features": %s}' % DEEP, Unprocessable, "2 numbers. Given: [[[["),
    "more than float32 holds": (JSON, b'{"features": [[1e39, 0]]}', Unprocessable, "that fit into float32. Given: "),
    "a huge whole number": (JSON, b'{"features": [[%s, 0]]}' % (b"9" * 100), Unprocessable, "float32. Given: "),
    "too many": (JSON, b'{"features": [[1, 2], [1, 2], [1, 2], [1, 2]]}', TooLarge, "at most 3 inputs. Given: 4"),
}


@pytest.mark.parametrize(("content_type", "body", "kind", "detail"), BAD_FEATURES.values(), ids=BAD_FEATURES.keys())
def test_bad_features_are_refused(content_type: str, body: bytes, kind: type[Problem], detail: str) -> None:
    with pytest.raises(kind) as refusal:
        features(body, content_type)

    assert detail in refusal.value.detail
    assert_grammar(refusal.value)


# Anything at all


def assert_grammar(problem: Problem) -> None:
    """What is required, then what was given, in a line that a person reads."""
    assert re.fullmatch(r"[^\n]* (must|takes) [^\n]*\. Given: [^\n]+", problem.detail, re.DOTALL)
    assert len(problem.detail) < 400
    assert 400 <= problem.status < 500


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["image", "images", "features"]) | st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=8,
)
pieces: Sequence[bytes] = [
    b"--cut",
    b"\r\n",
    b"--",
    b"Content-Disposition: form-data",
    b'; name="a"',
    b'; filename="b"',
    b":",
    b"x",
    b"\0",
    b"\xff",
]


@given(json_values)
def test_any_json_is_inputs_or_a_problem(document: object) -> None:
    body = json.dumps(document).encode()

    for find in (lambda: images(JSON, body), lambda: features(body)):
        try:
            found = find()
        except Problem as problem:
            assert_grammar(problem)
        else:
            assert 1 <= len(found) <= MAX


@given(st.lists(st.sampled_from(pieces), max_size=25).map(b"".join))
def test_any_form_is_files_or_a_problem(body: bytes) -> None:
    try:
        found = images(FORM, body)
    except Problem as problem:
        assert_grammar(problem)
    else:
        assert 1 <= len(found) <= MAX
