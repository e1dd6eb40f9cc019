"""Ready means that every required model can be computed; nobody has to be ready to have started."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.api.readiness import Readiness
from service.engine.absent import Absent
from service.engine.dispatcher import Dispatcher
from service.engine.served_models import ServedModel
from service.heartbeats import Heartbeats
from service.settings import Settings
from tests.registries import publish

REFUSED = Absent(name="mnist", version=2, state="refused", reason="it is bad")


class Served(Dispatcher):
    """A dispatcher whose workers compute the models in `ready`."""

    ready: frozenset[str] = frozenset({"rows"})

    def is_ready(self, model: ServedModel) -> bool:
        return model.name in self.ready


@pytest.fixture
def model(tmp_path: Path) -> ServedModel:
    return ServedModel(publish(tmp_path), default=True)


def readiness(model: ServedModel, *absent: Absent, heartbeats: Heartbeats | None = None, **settings: str) -> Readiness:
    found = Settings(**settings)  # type: ignore[arg-type]
    dispatcher = Served([], default_model=found.default_model, max_batch_size=1, max_queue=1)
    dispatcher.served.replace([model], absent)
    return Readiness(dispatcher, heartbeats or Heartbeats(1), found)


@pytest.mark.parametrize(
    ("settings", "absent", "missing"),
    [
        ({}, (), {}),
        ({}, (REFUSED,), {"mnist": "refused"}),
        ({}, (Absent(name="cats", version=1, state="refused"),), {}),
        ({"default_model": "mnist"}, (), {"mnist": "not in the registry"}),
        ({"default_model": "rows"}, (REFUSED,), {}),
        ({"require_models": ""}, (REFUSED,), {}),
        ({"require_models": "rows, mnist,cats"}, (REFUSED,), {"cats": "not in the registry", "mnist": "refused"}),
    ],
    ids=[
        "the only model",
        "refused",
        "no default in the registry",
        "not there",
        "another is refused",
        "none required",
        "several required",
    ],
)
def test_a_required_model_that_is_missing_is_named_with_its_state(
    model: ServedModel, settings: dict[str, str], absent: tuple[Absent, ...], missing: dict[str, str]
) -> None:
    found = readiness(model, *absent, **settings)  # type: ignore[arg-type]

    assert found.missing() == missing
    assert found.is_ready() == (not missing)
    assert all(f"{name} ({state})" in found.obstacle() for name, state in missing.items())
    assert found.refused() == [str(version) for version in absent]
    assert found.has_started()


def test_a_service_is_not_ready_while_draining_or_loading_or_without_a_worker(
    model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    heartbeats = Heartbeats(1)
    heartbeats.drain()
    loading = readiness(model, Absent(name="other", version=1, state="loading"))

    assert readiness(model, heartbeats=heartbeats).obstacle() == "draining"
    assert loading.obstacle() == "other models are being loaded"
    assert not loading.has_started()
    monkeypatch.setattr(Served, "ready", frozenset())
    assert readiness(model).obstacle() == "no worker is ready"
    assert readiness(model).has_started(), "a worker that is being replaced does not undo the start"
