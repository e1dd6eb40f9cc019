"""What a request means that names a model and a version, or leaves either out."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.engine.absent import Absent
from service.engine.served_models import ServedModel, ServedModels
from service.problems import NotFound, Unavailable
from tests.registries import publish


@pytest.fixture
def served(tmp_path: Path) -> ServedModels:
    """rows@1 (blessed), rows@2 (the default) and photos@1, where `rows` is the default model."""

    def model(name: str, *, default: bool, aliases: tuple[str, ...] = ()) -> ServedModel:
        manifest = publish(tmp_path, name)
        return ServedModel(manifest, default=default, aliases=aliases)

    served = ServedModels("rows")
    served.replace(
        [
            model("rows", default=False, aliases=("blessed",)),
            model("rows", default=True, aliases=("production",)),
            model("photos", default=True),
        ]
    )
    return served


@pytest.mark.parametrize(
    ("name", "version", "expected"),
    [
        (None, None, ("rows", 2)),
        ("rows", None, ("rows", 2)),
        ("rows", "1", ("rows", 1)),
        ("rows", "blessed", ("rows", 1)),
        (None, "blessed", ("rows", 1)),
        (None, "production", ("rows", 2)),
        ("photos", None, ("photos", 1)),
        ("photos", "1", ("photos", 1)),
    ],
)
def test_a_request_gets_the_model_that_it_means(
    served: ServedModels, name: str | None, version: str | None, expected: tuple[str, int]
) -> None:
    assert [served.resolve(name, version).key for _ in range(2)] == [expected] * 2


@pytest.mark.parametrize(
    ("name", "version", "detail"),
    [
        ("nope", None, "model must be one of ['photos', 'rows']. Given: 'nope'"),
        ("", None, "model must be one of ['photos', 'rows']. Given: ''"),
        ("rows", "3", "version of rows must be one of ['1', '2', 'blessed', 'production']. Given: '3'"),
        ("rows", "01", "version of rows must be one of ['1', '2', 'blessed', 'production']. Given: '01'"),
        ("photos", "blessed", "version of photos must be one of ['1']. Given: 'blessed'"),
    ],
)
def test_what_is_not_on_offer_is_refused_with_what_is(
    served: ServedModels, name: str, version: str | None, detail: str
) -> None:
    with pytest.raises(NotFound) as refusal:
        served.resolve(name, version)

    assert refusal.value.detail == detail


def test_a_single_model_needs_no_name_whatever_the_default_is_called(served: ServedModels) -> None:
    other = ServedModels("mnist")
    other.replace([served.resolve("photos")])

    assert other.resolve().key == ("photos", 1)
    assert other.default_name() == "photos"


@pytest.mark.parametrize(
    ("default", "absent", "given"),
    [
        ("mnist", [], "no model, and there is no default"),
        ("mnist", [Absent(name="mnist", version=1, state="refused", reason="it is bad")], "the default model is not"),
        ("mnist", [Absent(name="mnist", version=0, state="refused", reason="no alias")], "the default model is not"),
    ],
    ids=["not in the registry", "refused", "unreadable"],
)
def test_no_other_model_answers_for_the_default_and_what_the_client_did_not_send_is_not_quoted(
    served: ServedModels, default: str, absent: list[Absent], given: str
) -> None:
    for models in ([served.resolve("photos")], served.models()):
        other = ServedModels(default)
        other.replace(models, absent or [Absent(name="cats", version=1, state="refused")])

        with pytest.raises(NotFound) as refusal:
            other.resolve()

        assert f"one of {sorted({model.name for model in models})}; --default-model" in refusal.value.detail
        assert f"Given: {given}" in refusal.value.detail
        assert "mnist" not in refusal.value.detail


def test_a_default_model_that_is_being_loaded_is_worth_asking_for_again(served: ServedModels) -> None:
    other = ServedModels("mnist")
    other.replace(served.models(), [Absent(name="mnist", version=1, state="loading")])

    with pytest.raises(Unavailable, match="Given: it is being loaded"):
        other.resolve()


def test_before_any_worker_has_spoken_the_service_is_starting() -> None:
    with pytest.raises(Unavailable, match=r"Given: it is still starting") as refusal:
        ServedModels("rows").resolve()

    assert refusal.value.headers == {"retry-after": "1"}


def test_what_is_no_longer_on_offer_is_no_longer_resolved(served: ServedModels) -> None:
    before = served.resolve("rows", "1")

    served.replace(model for model in served.models() if model.key != before.key)

    with pytest.raises(NotFound):
        served.resolve("rows", "1")


def test_models_are_listed_by_name_and_number(served: ServedModels) -> None:
    assert [model.key for model in served.models()] == [("photos", 1), ("rows", 1), ("rows", 2)]


def test_a_served_model_knows_the_size_of_an_input(served: ServedModels) -> None:
    assert served.resolve().input_bytes == 784


def test_a_version_that_is_being_loaded_is_worth_asking_for_again(served: ServedModels) -> None:
    served.replace(
        served.models(),
        [Absent(name="rows", version=3, state="loading"), Absent(name="new", version=1, state="loading")],
    )

    for name, version, place in (("rows", "3", "rows@3"), ("new", None, "new@1"), ("new", "1", "new@1")):
        with pytest.raises(Unavailable) as refusal:
            served.resolve(name, version)
        assert refusal.value.detail == f"{place} must be loaded. Given: it is being loaded"
        assert refusal.value.headers == {"retry-after": "1"}
    assert served.resolve("rows").key == ("rows", 2)
    with pytest.raises(NotFound):
        served.resolve("rows", "4")


def test_a_version_that_was_refused_is_not_found_and_the_reason_is_given(served: ServedModels) -> None:
    served.replace(
        served.models(),
        [
            Absent(name="rows", version=3, state="refused", reason="it is bad"),
            Absent(name="new", version=1, state="refused", reason="it is worse"),
        ],
    )

    with pytest.raises(NotFound, match=r"Given: '3'; refused rows@3: it is bad$"):
        served.resolve("rows", "3")
    with pytest.raises(NotFound, match=r"Given: 'new'; refused new@1: it is worse$"):
        served.resolve("new")


def test_what_one_worker_serves_is_not_absent_because_another_still_loads_it(served: ServedModels) -> None:
    served.replace(served.models(), [Absent(name="rows", version=2, state="loading")])

    assert served.absent() == []
    assert served.resolve("rows", "2").key == ("rows", 2)


def test_what_is_served_is_complete_once_no_model_is_missing_and_stays_so(served: ServedModels) -> None:
    starting = ServedModels("rows")
    models, new = served.models(), Absent(name="new", version=1, state="loading")
    before = starting.is_complete
    steps = []

    for absent in (new, Absent(name="rows", version=3, state="loading"), new):
        starting.replace(models, [absent])
        steps.append(starting.is_complete)

    assert not before
    assert steps == [False, True, True], "a new version of what is served is not missing, nor is a later model"
