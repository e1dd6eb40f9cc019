"""While a registry cannot be read, its local copy stands in."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

import pytest

from service.contract.listing import Listings
from service.contract.registry import Registry, RegistryError
from service.rollout.cache import Cache
from service.rollout.mirror import Mirror
from tests.registries import publish


def mirror(root: Path, cache: Path, **options: float) -> Mirror:
    return Mirror(Registry(root), Cache(cache, str(root), 10**6), **options)  # type: ignore[arg-type]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A registry of two versions, which a mirror has read and kept, and that is gone since."""
    root = tmp_path / "models"
    for weights in (b"first", b"second"):
        publish(root, artifact=weights)
    Registry(root).set_alias("rows", "production", 1)
    reading = mirror(root, tmp_path / "cache")
    listings = reading.look()
    manifest = reading.manifest("rows", 1)
    reading.artifact(manifest)
    reading.keep(manifest)
    reading.remember(listings)
    shutil.rmtree(root)
    return root


def test_what_was_kept_is_read_without_the_registry_and_nothing_else(root: Path, tmp_path: Path) -> None:
    started = mirror(root, tmp_path / "cache")
    with pytest.raises(RegistryError, match="Given: no model"):
        started.look()

    listings = started.last_known()

    assert listings is not None
    assert (list(listings["rows"].versions), listings["rows"].production()) == ([1, 2], 1)
    assert started.artifact(started.manifest("rows", 1)) == b"first"
    with pytest.raises(RegistryError, match=r"rows@2 must be read from the registry"):
        started.manifest("rows", 2)


def test_the_first_boot_has_nothing_to_stand_in(root: Path, tmp_path: Path) -> None:
    assert mirror(root, tmp_path / "empty").last_known() is None
    assert Mirror(Registry(root)).last_known() is None


class HangingRegistry(Registry):
    """A registry that does not answer."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.answers = threading.Event()

    def look(self) -> Listings:
        self.answers.wait()
        return super().look()


def test_a_registry_that_hangs_is_given_up_if_there_is_a_copy(root: Path, tmp_path: Path) -> None:
    registry = HangingRegistry(root)
    started = Mirror(registry, Cache(tmp_path / "cache", str(root), 10**6), patience_seconds=0.05)

    with pytest.raises(RegistryError, match=r"must answer within 0\.05 s\. Given: nothing"):
        started.look_patiently()

    registry.answers.set()
    assert started.last_known() is not None


def test_it_is_told_when_the_registry_was_last_read_also_by_an_earlier_process(root: Path, tmp_path: Path) -> None:
    told: list[float] = []
    started = Mirror(Registry(root), Cache(tmp_path / "cache", str(root), 10**6), on_read=told.append)
    before = time.monotonic()

    started.last_known()
    publish(root)
    started.look()

    assert told[0] < before <= told[1]


def test_a_model_that_becomes_unreadable_is_as_it_was_known_before(root: Path, tmp_path: Path) -> None:
    publish(root, "other")
    (root / "rows").symlink_to(root / "rows")  # a link to itself: nobody can read it

    listings = mirror(root, tmp_path / "cache").look()

    assert (listings["rows"].production(), listings["rows"].is_readable) == (1, False)
    assert listings["other"].production() == 1
