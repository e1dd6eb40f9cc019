"""The thread that follows the registry: whatever the registry does, the worker is offered only what can serve."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from service.contract.manifest import ModelManifest
from service.contract.registry import Registry, RegistryError
from service.engine.line_up import LineUp
from service.model.model import Model
from service.rollout import watcher
from service.rollout.catalogue import Catalogue
from tests.registries import publish


class MoodyRegistry(Registry):
    """A registry that can be told to be slow, or to be gone."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.answers = threading.Event()
        self.answers.set()
        self.waits = threading.Event()
        self.gone = False

    def models(self) -> list[str]:
        if self.gone:
            raise RegistryError("it must be readable. Given: nothing")
        return super().models()

    def artifact(self, manifest: ModelManifest) -> bytes:
        if not self.answers.is_set():
            self.waits.set()
            self.answers.wait()
        return super().artifact(manifest)


class StopFollowingError(Exception):
    """Ends the follower of a test."""


class Followed:
    """A follower whose turns a test lets happen, and what it has offered."""

    def __init__(self, registry: MoodyRegistry, monkeypatch: pytest.MonkeyPatch, first_model: str = "") -> None:
        self.offers: list[LineUp] = []
        self._turns = threading.Semaphore(0)
        self._done = threading.Semaphore(0)
        self._stopped = False
        catalogue = Catalogue(registry, lambda m, a: Model(m, a), keep_versions=0)
        first = catalogue.first_line_up(first_model) if first_model else catalogue.line_up()
        monkeypatch.setattr(watcher, "time", SimpleNamespace(sleep=self._sleep))
        monkeypatch.setattr(watcher.os, "setpriority", lambda *_: None)  # this process is to keep its own
        self._run: Callable[[], None] = lambda: watcher._follow(catalogue, first, self.offers.append, 1.0)
        self._thread = threading.Thread(target=self._follow)
        self._thread.start()
        self._done.acquire()

    def _follow(self) -> None:
        with contextlib.suppress(StopFollowingError):
            self._run()

    def _sleep(self, _: float) -> None:
        self._done.release()
        self._turns.acquire()
        if self._stopped:
            raise StopFollowingError

    def begin_turn(self) -> None:
        self._turns.release()

    def end_turn(self) -> None:
        assert self._done.acquire(timeout=30)

    def turn(self) -> None:
        self.begin_turn()
        self.end_turn()

    def offered(self) -> list[tuple[list[int], list[tuple[int, str]]]]:
        """Versions that serve, and those that do not with their state, of each offer."""
        return [
            ([s.model.manifest.version for s in offer.served], [(a.version, a.state) for a in offer.absent])
            for offer in self.offers
        ]

    def close(self) -> None:
        self._stopped = True
        self._turns.release()
        self._thread.join(30)
        assert not self._thread.is_alive()


@pytest.fixture
def registry(tmp_path: Path) -> MoodyRegistry:
    publish(tmp_path)
    return MoodyRegistry(tmp_path)


@pytest.fixture
def followed(registry: MoodyRegistry, monkeypatch: pytest.MonkeyPatch) -> Iterator[Followed]:
    followed = Followed(registry, monkeypatch)
    yield followed
    registry.answers.set()
    followed.close()


def test_what_has_not_changed_is_not_offered_again(followed: Followed) -> None:
    followed.turn()
    followed.turn()

    assert followed.offers == []


def test_while_a_slow_registry_gives_a_version_what_serves_is_offered_and_that_the_other_is_loading(
    followed: Followed, registry: MoodyRegistry, tmp_path: Path
) -> None:
    publish(tmp_path)
    registry.answers.clear()

    followed.begin_turn()
    assert registry.waits.wait(30)
    while_slow = followed.offered()
    registry.answers.set()
    followed.end_turn()

    assert while_slow == [([1], [(2, "loading")])]
    assert followed.offered()[1:] == [([2], [])]


def test_a_registry_that_is_gone_is_said_once_and_followed_again_when_it_is_back(
    followed: Followed, registry: MoodyRegistry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    registry.gone = True
    for _ in range(3):
        followed.turn()
    while_gone = list(followed.offers)
    registry.gone = False
    publish(tmp_path)
    followed.turn()

    assert while_gone == []
    assert caplog.text.count("the registry cannot be followed, and what serves serves on") == 1
    assert followed.offered()[-1] == ([2], [])


def test_models_that_the_first_line_up_lacks_are_loaded_without_waiting_for_a_turn(
    registry: MoodyRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tmp_path, "other")

    with contextlib.closing(Followed(registry, monkeypatch, "rows")) as followed:  # returns once it waits for a turn
        (offered,) = followed.offers

    assert [entry.model.manifest.name for entry in offered.served] == ["other", "rows"]
    assert offered.absent == ()
