"""The thread that watches the registry: whatever the registry does, the worker is offered only what can serve."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.contract.listing import Listings
from service.contract.manifest import ModelManifest
from service.contract.registry import Registry, RegistryError
from service.engine.line_up import LineUp
from service.model.model import Model
from service.rollout.catalogue import Catalogue
from service.rollout.mirror import Mirror
from service.rollout.watcher import Watcher, watch
from tests.registries import publish


class MoodyRegistry(Registry):
    """A registry that can be told to be slow, or to be gone."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.answers = threading.Event()
        self.answers.set()
        self.waits = threading.Event()
        self.gone = False

    def look(self) -> Listings:
        if self.gone:
            raise RegistryError("it must be readable. Given: nothing")
        return super().look()

    def artifact(self, manifest: ModelManifest) -> bytes:
        if not self.answers.is_set():
            self.waits.set()
            self.answers.wait()
        return super().artifact(manifest)


class Watched:
    """A watcher whose looks a test lets happen, and what it has offered."""

    def __init__(self, registry: MoodyRegistry) -> None:
        self.offers: list[LineUp] = []
        self.unloaded: set[str] = set()
        catalogue = Catalogue(
            Mirror(registry), lambda m, a: Model(m, a), keep_versions=0, unloaded=lambda: frozenset(self.unloaded)
        )
        self._watcher = Watcher(catalogue, catalogue.line_up(), self.offers.append)
        self._looking: threading.Thread

    def begin_look(self) -> None:
        self._looking = threading.Thread(target=self._watcher.look)
        self._looking.start()

    def end_look(self) -> None:
        self._looking.join(30)
        assert not self._looking.is_alive()

    def look(self) -> None:
        self._watcher.look()

    def offered(self) -> list[tuple[list[int], list[tuple[int, str]]]]:
        """Versions that serve, and those that do not with their state, of each offer."""
        return [
            ([s.model.manifest.version for s in offer.served], [(a.version, a.state) for a in offer.absent])
            for offer in self.offers
        ]


@pytest.fixture
def registry(tmp_path: Path) -> MoodyRegistry:
    publish(tmp_path)
    return MoodyRegistry(tmp_path)


@pytest.fixture
def watched(registry: MoodyRegistry) -> Iterator[Watched]:
    yield Watched(registry)
    registry.answers.set()


def test_what_has_not_changed_is_not_offered_again(watched: Watched) -> None:
    watched.look()
    watched.look()

    assert watched.offers == []


def test_while_a_slow_registry_gives_a_version_what_serves_is_offered_and_that_the_other_is_loading(
    watched: Watched, registry: MoodyRegistry, tmp_path: Path
) -> None:
    publish(tmp_path)
    registry.answers.clear()

    watched.begin_look()
    assert registry.waits.wait(30)
    while_slow = watched.offered()
    registry.answers.set()
    watched.end_look()

    assert while_slow == [([1], [(2, "loading")])]
    assert watched.offered()[1:] == [([2], [])]


def test_a_registry_that_is_gone_is_logged_once_and_watched_again_when_it_is_back(
    watched: Watched, registry: MoodyRegistry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    registry.gone = True
    for _ in range(3):
        watched.look()
    while_gone = list(watched.offers)
    registry.gone = False
    publish(tmp_path)
    watched.look()

    assert while_gone == []
    assert caplog.text.count("the registry cannot be read; what is served stays served") == 1
    assert watched.offered()[-1] == ([2], [])


def test_what_is_unloaded_while_the_registry_is_gone_is_served_no_more(registry: MoodyRegistry, tmp_path: Path) -> None:
    publish(tmp_path, "other")
    watched = Watched(registry)
    registry.gone = True
    watched.unloaded.add("other")
    watched.look()
    watched.look()
    while_gone = watched.offered()
    registry.gone = False
    watched.look()

    assert watched.offered() == while_gone == [([1], [(1, "unloaded")])]
    assert watched.offers[0].served[0].model.manifest.name == "rows"


def test_a_thread_looks_again_and_again(registry: MoodyRegistry, tmp_path: Path) -> None:
    offers: queue.SimpleQueue[LineUp] = queue.SimpleQueue()
    catalogue = Catalogue(Mirror(registry), lambda m, a: Model(m, a), keep_versions=0)
    has_seen = threading.Event()

    def wait(seconds: float) -> None:
        time.sleep(seconds)
        if has_seen.is_set():
            threading.Event().wait()  # for ever: the thread must not go on beside the tests that follow

    watch(catalogue, catalogue.line_up(), offers.put, poll_seconds=0.01, wait=wait)

    found = []
    for _ in range(2):
        publish(tmp_path)
        while not (offer := offers.get(timeout=30)).served or offer.absent:
            pass
        found.append(offer.served[0].model.manifest.version)
    has_seen.set()

    assert found == [2, 3]


def test_what_loading_the_first_models_freed_is_returned_before_the_worker_is_settled(
    registry: MoodyRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled = threading.Event()
    was_settled: list[bool] = []
    monkeypatch.setattr("service.rollout.watcher.return_freed_memory", lambda: was_settled.append(settled.is_set()))
    catalogue = Catalogue(Mirror(registry), lambda m, a: Model(m, a), keep_versions=0)

    def wait(_seconds: float) -> None:
        threading.Event().wait()  # for ever: the thread must not go on beside the tests that follow

    watch(catalogue, catalogue.line_up(), lambda _: None, poll_seconds=1, settled=settled, wait=wait)
    assert settled.wait(30)
    assert was_settled == [False]
