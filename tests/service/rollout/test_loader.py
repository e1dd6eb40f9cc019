"""No version is loaded into a worker that did not pass a trial, and what was found out is not found out again."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.contract.manifest import ModelManifest
from service.contract.registry import Registry
from service.model.model import Model, UnfitModelError
from service.rollout.loader import Loader
from service.rollout.verdicts import Verdicts
from tests.registries import publish


class Worker:
    """What a worker does with a version, in the order in which it did."""

    def __init__(self, root: Path, *, trial: str = "", load: str = "", is_serving: bool = False) -> None:
        self.acts: list[str] = []
        self._trial = trial
        self._load = load
        verdicts = Verdicts(root / "verdicts.jsonl")
        self.loader = Loader(self.try_out, self.load, verdicts, is_serving=lambda: is_serving)

    def try_out(self, manifest: ModelManifest, artifact: bytes, *, gently: bool) -> None:
        self.acts.append("try gently" if gently else "try")
        if self._trial:
            raise UnfitModelError(self._trial)

    def load(self, manifest: ModelManifest, artifact: bytes) -> Model:
        self.acts.append("load")
        if self._load:
            raise UnfitModelError(self._load)
        return Model(manifest, artifact)


@pytest.fixture
def version(tmp_path: Path) -> tuple[ModelManifest, bytes]:
    manifest = publish(tmp_path)
    return manifest, Registry(tmp_path).artifact(manifest)


def test_a_new_version_is_tried_out_and_then_loaded(tmp_path: Path, version: tuple[ModelManifest, bytes]) -> None:
    worker = Worker(tmp_path)

    model = worker.loader.load(*version)

    assert str(model) == "rows@1"
    assert worker.acts == ["try", "load"]


def test_a_worker_that_serves_tries_a_version_out_gently(tmp_path: Path, version: tuple[ModelManifest, bytes]) -> None:
    worker = Worker(tmp_path, is_serving=True)

    worker.loader.load(*version)

    assert worker.acts == ["try gently", "load"]


def test_a_version_that_served_is_loaded_by_the_next_worker_without_a_trial(
    tmp_path: Path, version: tuple[ModelManifest, bytes]
) -> None:
    Worker(tmp_path).loader.load(*version)
    replacement = Worker(tmp_path, trial="it must not be asked")

    replacement.loader.load(*version)

    assert replacement.acts == ["load"]


@pytest.mark.parametrize(
    ("wrong", "acts"), [({"trial": "it hangs"}, ["try"]), ({"load": "it hangs"}, ["try", "load"])], ids=str
)
def test_a_version_that_fails_is_refused_and_by_the_next_worker_with_the_same_reason(
    tmp_path: Path, version: tuple[ModelManifest, bytes], wrong: dict[str, str], acts: list[str]
) -> None:
    worker, replacement = Worker(tmp_path, **wrong), Worker(tmp_path)  # type: ignore[arg-type]

    for each in (worker, replacement):
        with pytest.raises(UnfitModelError, match="it hangs"):
            each.loader.load(*version)

    assert (worker.acts, replacement.acts) == (acts, [])


def test_a_version_that_workers_die_of_in_spite_of_its_trial_is_refused_in_the_end(
    tmp_path: Path, version: tuple[ModelManifest, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Dies(Worker):
        def load(self, manifest: ModelManifest, artifact: bytes) -> Model:
            raise SystemExit  # as good as dead: nothing is written after it

    monkeypatch.setattr("service.rollout.verdicts._is_alive", lambda pid: False)
    pids = iter(range(1, 9))
    monkeypatch.setattr("service.rollout.verdicts.os.getpid", lambda: next(pids))
    for _ in range(2):
        with pytest.raises(SystemExit):
            Dies(tmp_path).loader.load(*version)

    with pytest.raises(UnfitModelError, match="loading it must not end the worker"):
        Worker(tmp_path).loader.load(*version)
