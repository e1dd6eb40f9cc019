"""What of a registry is served: the version to serve of each model, if it is fit to."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from service.contract import store
from service.contract.manifest import ModelManifest
from service.contract.registry import Registry, RegistryError
from service.engine.line_up import LineUp
from service.model.model import Model
from service.rollout.cache import Cache
from service.rollout.catalogue import Catalogue
from service.rollout.mirror import Mirror
from tests.registries import RGB, BrightestRow, artifact_of, publish

CPU = torch.device("cpu")


class OnlyPairs(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.view(2, -1)[:, :10].float()


def catalogue(root: Path, **options: Any) -> Catalogue:
    def load(manifest: ModelManifest, artifact: bytes) -> Model:
        model = Model(manifest, artifact)
        model.warm_up(2)
        return model

    return Catalogue(Mirror(Registry(root)), load, **{"keep_versions": 0, **options})


def said_of(line_up: LineUp) -> dict[str, tuple[int, tuple[str, ...]]]:
    """Version and aliases of each model that answers by default."""
    return {
        entry.model.manifest.name: (entry.model.manifest.version, tuple(sorted(entry.aliases)))
        for entry in line_up.served
        if entry.default
    }


def served(root: Path) -> dict[str, tuple[int, tuple[str, ...]]]:
    return said_of(catalogue(root).line_up())


def test_a_required_model_that_the_registry_lacks_is_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publish(tmp_path, "rows")
    followed = catalogue(tmp_path, required={"rows", "rowss"})

    for _ in range(2):
        followed.line_up()

    said = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert said == ["required models must be in the registry, or the service is not ready. Missing: rowss"]


def test_the_newest_version_of_every_model_is_served(tmp_path: Path) -> None:
    for name in ("b", "a", "b"):
        publish(tmp_path, name)

    assert served(tmp_path) == {"a": (1, ()), "b": (2, ())}


def test_production_is_served_in_place_of_the_newest_with_all_its_aliases(tmp_path: Path) -> None:
    for _ in range(3):
        publish(tmp_path)
    registry = Registry(tmp_path)
    registry.set_alias("rows", "production", 2)
    registry.set_alias("rows", "blessed", 2)
    registry.set_alias("rows", "canary", 3)

    assert served(tmp_path) == {"rows": (2, ("blessed", "production"))}


def test_a_damaged_artifact_is_left_out_and_said_and_the_others_serve(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publish(tmp_path, "good")
    publish(tmp_path, "bad")
    (tmp_path / "bad" / "1" / "model.pt").write_bytes(b"other bytes")

    assert served(tmp_path) == {"good": (1, ())}
    assert "refused bad@1: bad@1: sha256 of model.pt is" in caplog.text


@pytest.mark.parametrize(
    "changes",
    [
        {"artifact": b"no module"},
        {"logits": [[0.0] * 10] * 2},
        {
            "artifact": artifact_of(OnlyPairs()),
            "logits": [[float(i) for i in range(10)], [float(784 + i) % 251 for i in range(10)]],
        },
    ],
    ids=["no module", "other logits", "not every batch size"],
)
def test_a_model_that_is_unfit_is_left_out_and_said(
    tmp_path: Path, changes: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    publish(tmp_path, "good")
    publish(tmp_path, "bad", **changes)

    assert served(tmp_path) == {"good": (1, ())}
    assert "refused bad@1: bad@1: " in caplog.text


def test_a_manifest_that_does_not_parse_is_left_out(tmp_path: Path) -> None:
    publish(tmp_path, "good")
    publish(tmp_path, "bad")
    (tmp_path / "bad" / "1" / "manifest.json").write_text("{")

    assert served(tmp_path) == {"good": (1, ())}


def test_an_alias_that_points_nowhere_is_passed_over(tmp_path: Path) -> None:
    publish(tmp_path)
    (tmp_path / "rows" / "aliases").mkdir()
    (tmp_path / "rows" / "aliases" / "production").write_text("9\n")

    with pytest.raises(RegistryError, match="must hold a version that can serve"):
        served(tmp_path / "nowhere")
    assert served(tmp_path)["rows"][0] == 1


def test_a_model_whose_production_cannot_be_read_is_absent_and_not_forgotten(tmp_path: Path) -> None:
    publish(tmp_path, "rows")
    publish(tmp_path, "other")
    aliases = tmp_path / "rows" / "aliases"
    aliases.mkdir()
    (aliases / "production").write_text("a typing error")
    watched = catalogue(tmp_path)

    absent = watched.line_up().absent
    (aliases / "production").write_text("1")

    assert [(str(version), version.state) for version in absent] == [("rows", "refused")]
    assert "must hold a version number" in absent[0].reason
    assert watched.line_up().absent == ()


def test_a_registry_in_which_nothing_can_serve_is_an_error_with_its_remedy(tmp_path: Path) -> None:
    publish(tmp_path, "bad", artifact=b"no module")

    with pytest.raises(RegistryError, match=r"must hold a version that can serve\. Given: \['bad'\]\. Publish one"):
        served(tmp_path)


def test_an_empty_registry_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="Given: no model"):
        served(tmp_path)


def test_a_registry_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(RegistryError):
        served(tmp_path / "file" / "models")


def test_a_start_on_a_damaged_version_serves_the_one_before(tmp_path: Path) -> None:
    publish(tmp_path)
    publish(tmp_path, artifact=b"no module")

    assert served(tmp_path) == {"rows": (1, ())}


def test_a_new_version_takes_over_and_those_before_stay_up_to_the_setting(tmp_path: Path) -> None:
    followed = catalogue(tmp_path, keep_versions=1)
    seen = []
    for _ in range(3):
        publish(tmp_path)
        seen.append([(entry.model.manifest.version, entry.default) for entry in followed.line_up().served])

    assert seen == [[(1, True)], [(2, True), (1, False)], [(3, True), (2, False)]]


def test_what_serves_is_not_loaded_again(tmp_path: Path) -> None:
    publish(tmp_path)
    followed = catalogue(tmp_path)

    assert followed.line_up() == followed.line_up()


def test_a_moved_alias_moves_what_is_served(tmp_path: Path) -> None:
    publish(tmp_path)
    publish(tmp_path)
    followed = catalogue(tmp_path)
    before = said_of(followed.line_up())

    Registry(tmp_path).set_alias("rows", "production", 1)

    assert (before, said_of(followed.line_up())) == ({"rows": (2, ())}, {"rows": (1, ("production",))})


def test_an_unfit_new_version_is_refused_once_and_the_old_one_serves_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publish(tmp_path)
    followed = catalogue(tmp_path)
    followed.line_up()

    publish(tmp_path, logits=[[0.0] * 10] * 2)
    later = [said_of(followed.line_up()) for _ in range(3)]

    assert later == [{"rows": (1, ())}] * 3
    assert caplog.text.count("refused rows@2") == 1


def test_a_version_that_was_half_copied_is_served_once_it_is_whole(tmp_path: Path) -> None:
    publish(tmp_path)
    followed = catalogue(tmp_path)
    followed.line_up()
    publish(tmp_path)
    whole = (tmp_path / "rows" / "2" / "model.pt").read_bytes()

    (tmp_path / "rows" / "2" / "model.pt").write_bytes(whole[:100])
    while_half = said_of(followed.line_up())
    (tmp_path / "rows" / "2" / "model.pt").write_bytes(whole)

    assert (while_half, said_of(followed.line_up())) == ({"rows": (1, ())}, {"rows": (2, ())})


def test_a_registry_that_is_gone_or_empty_is_an_error_and_forgets_nothing(tmp_path: Path) -> None:
    publish(tmp_path / "models")
    followed = catalogue(tmp_path / "models")
    before = followed.line_up()

    (tmp_path / "models").rename(tmp_path / "away")
    with pytest.raises(RegistryError, match="Given: no model"):
        followed.line_up()
    (tmp_path / "models").mkdir()
    with pytest.raises(RegistryError, match="Given: no model"):
        followed.line_up()
    (tmp_path / "models").rmdir()
    (tmp_path / "away").rename(tmp_path / "models")

    assert before == followed.line_up()


def test_models_come_and_go(tmp_path: Path) -> None:
    publish(tmp_path, "a")
    followed = catalogue(tmp_path)
    first = set(said_of(followed.line_up()))

    publish(tmp_path, "b")
    second = set(said_of(followed.line_up()))
    (tmp_path / "a").rename(tmp_path / ".a")

    assert (first, second, set(said_of(followed.line_up()))) == ({"a"}, {"a", "b"}, {"b"})


def test_what_is_refused_is_in_the_line_up_with_the_reason_until_it_serves(tmp_path: Path) -> None:
    publish(tmp_path)
    followed = catalogue(tmp_path)
    followed.line_up()
    publish(tmp_path)
    artifact = tmp_path / "rows" / "2" / "model.pt"
    whole = artifact.read_bytes()

    artifact.write_bytes(whole[:100])
    (while_half,) = followed.line_up().absent
    artifact.write_bytes(whole)

    assert (while_half.name, while_half.version, while_half.state) == ("rows", 2, "refused")
    assert "rows@2: sha256 of model.pt is" in while_half.reason
    assert followed.line_up().absent == ()


def test_refusals_of_a_model_that_is_gone_are_forgotten_and_of_the_others_the_last_are_kept(tmp_path: Path) -> None:
    publish(tmp_path)
    publish(tmp_path, "gone")
    followed = catalogue(tmp_path)
    followed.line_up()
    publish(tmp_path, "gone", artifact=b"no module")
    followed.line_up()
    (tmp_path / "gone").rename(tmp_path / ".gone")

    for _ in range(22):
        publish(tmp_path, artifact=b"no module")
        last = followed.line_up()

    assert [(absent.name, absent.version) for absent in last.absent] == [("rows", n) for n in range(4, 24)]


def test_what_is_about_to_be_loaded_is_told_first(tmp_path: Path) -> None:
    publish(tmp_path)
    followed = catalogue(tmp_path)
    told: list[tuple[str, int, str]] = []

    def look() -> None:
        followed.line_up(lambda offered: told.extend((a.name, a.version, a.state) for a in offered.absent))

    look()
    publish(tmp_path)
    publish(tmp_path, "photos", spec=RGB)
    publish(tmp_path, "bad", artifact=b"no module")
    look()
    look()
    publish(tmp_path)
    look()

    assert told == [
        ("rows", 1, "loading"),
        ("bad", 1, "loading"),
        ("photos", 1, "loading"),
        ("rows", 2, "loading"),
        ("rows", 3, "loading"),
        ("bad", 1, "refused"),
    ]


def test_every_load_and_every_new_refusal_is_told(tmp_path: Path) -> None:
    told: list[tuple[str, int, bool]] = []
    publish(tmp_path)
    publish(tmp_path, "bad", artifact=b"no module")

    def on_load(model: str, version: int, *, ok: bool, seconds: float) -> None:
        assert seconds > 0
        told.append((model, version, ok))

    followed = catalogue(tmp_path, on_load=on_load)
    for _ in range(3):
        followed.line_up()

    assert told == [("bad", 1, False), ("rows", 1, True)]


def test_a_manifest_of_an_unknown_schema_is_left_out_and_said(tmp_path: Path) -> None:
    publish(tmp_path)
    publish(tmp_path)
    path = tmp_path / "rows" / "2" / "manifest.json"
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 3'))

    line_up = catalogue(tmp_path).line_up()

    assert said_of(line_up) == {"rows": (1, ())}
    assert "schema_version" in line_up.absent[0].reason


class FullRegistry(Registry):
    """A registry whose store has no room and fails every read that would need some."""

    full = False

    def artifact(self, manifest: ModelManifest) -> bytes:
        if self.full:
            raise RegistryError("it must be readable. Given: OSError: [Errno 28] No space left on device")
        return super().artifact(manifest)


def test_a_version_that_a_full_store_cannot_give_is_served_once_it_can(tmp_path: Path) -> None:
    publish(tmp_path)
    registry = FullRegistry(tmp_path)
    followed = Catalogue(Mirror(registry), lambda m, a: Model(m, a), keep_versions=0)
    followed.line_up()
    publish(tmp_path)

    registry.full = True
    while_full = followed.line_up()
    registry.full = False

    assert said_of(while_full) == {"rows": (1, ())}
    assert "No space left" in while_full.absent[0].reason
    assert said_of(followed.line_up()) == {"rows": (2, ())}


def test_the_first_line_up_is_one_model_and_announces_the_others_as_loading(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        publish(tmp_path, name)
    loads = []
    catalogued = catalogue(tmp_path, on_load=lambda name, *_, **__: loads.append(name))

    first = catalogued.first_line_up("b")
    loaded_first = list(loads)
    rest = catalogued.line_up()

    assert said_of(first) == {"b": (1, ())}
    assert [(absent.name, absent.state) for absent in first.absent] == [("a", "loading"), ("c", "loading")]
    assert loaded_first == ["b"]
    assert list(said_of(rest)) == ["a", "b", "c"]
    assert loads == ["b", "a", "c"]
    assert rest.absent == ()


def test_without_a_default_model_that_can_serve_the_first_line_up_is_everything(tmp_path: Path) -> None:
    publish(tmp_path, "a")
    publish(tmp_path, "b", artifact=b"not a module")

    missing, unfit = (catalogue(tmp_path).first_line_up(name) for name in ("c", "b"))

    assert said_of(missing) == said_of(unfit) == {"a": (1, ())}
    assert [absent.state for absent in unfit.absent] == ["refused"]


def servable(line_up: LineUp) -> dict[int, tuple[bool, tuple[str, ...]]]:
    """Whether each version of `rows` answers by default, and its aliases."""
    return {entry.model.manifest.version: (entry.default, entry.aliases) for entry in line_up.served}


def test_every_alias_is_servable(tmp_path: Path) -> None:
    for _ in range(3):
        publish(tmp_path)
    registry = Registry(tmp_path)
    registry.promote("rows", 2)
    followed = catalogue(tmp_path)
    before = servable(followed.line_up())

    registry.set_alias("rows", "canary", 3)
    canary = servable(followed.line_up())
    (tmp_path / "rows" / "aliases" / "canary").unlink()

    assert before == {2: (True, ("production",))}
    assert canary == {3: (False, ("canary",)), 2: (True, ("production",))}
    assert servable(followed.line_up()) == before


def test_a_replica_that_starts_now_serves_what_one_serves_that_saw_every_change(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    old = catalogue(tmp_path, keep_versions=1)
    steps: list[Callable[[], object]] = [
        lambda: registry.promote("rows", 1),
        lambda: registry.promote("rows", 2),
        lambda: registry.promote("rows", 4),
        lambda: registry.set_alias("rows", "canary", 3),
        lambda: registry.rollback("rows"),
        lambda: registry.rollback("rows"),
        lambda: registry.promote("rows", 4),
    ]
    for _ in range(4):
        publish(tmp_path)

    for step in steps:
        step()
        assert servable(old.line_up()) == servable(catalogue(tmp_path, keep_versions=1).line_up())


def test_a_model_that_falls_back_says_so_until_production_can_serve(tmp_path: Path) -> None:
    publish(tmp_path)
    publish(tmp_path)
    registry = Registry(tmp_path)
    registry.promote("rows", 1)
    registry.promote("rows", 2)
    artifact = tmp_path / "rows" / "2" / "model.pt"
    whole = artifact.read_bytes()
    artifact.write_bytes(whole[:-1])

    followed = catalogue(tmp_path)
    fallen = followed.line_up()
    artifact.write_bytes(whole)
    healed = followed.line_up()

    assert said_of(fallen) == {"rows": (1, ())}
    assert [(absent.version, absent.is_production) for absent in fallen.absent] == [(2, True)]
    assert (said_of(healed), healed.absent) == ({"rows": (2, ("production",))}, ())


def test_a_version_that_nobody_promoted_never_stands_in_for_production(tmp_path: Path) -> None:
    for _ in range(2):
        publish(tmp_path)
    publish(tmp_path, "other")
    Registry(tmp_path).promote("rows", 2)
    publish(tmp_path)
    for version in (1, 2):
        (tmp_path / "rows" / str(version) / "model.pt").write_bytes(b"no module")

    assert said_of(catalogue(tmp_path).line_up()) == {"other": (1, ())}


def test_a_bug_that_one_version_meets_keeps_no_other_from_being_served(tmp_path: Path) -> None:
    publish(tmp_path, "good")
    publish(tmp_path, "odd")

    def load(manifest: ModelManifest, artifact: bytes) -> Model:
        if manifest.name == "odd":
            raise KeyError("odd")
        return Model(manifest, artifact)

    line_up = Catalogue(Mirror(Registry(tmp_path)), load, keep_versions=0).line_up()

    assert said_of(line_up) == {"good": (1, ())}
    assert [(absent.name, absent.reason) for absent in line_up.absent] == [
        ("odd", "loading it met a bug: KeyError: 'odd'")
    ]


class CountingRegistry(Registry):
    """A registry that counts the artifacts that it reads."""

    artifacts = 0

    def artifact(self, manifest: ModelManifest) -> bytes:
        self.artifacts += 1
        return super().artifact(manifest)


def test_what_was_refused_is_read_again_only_once_its_files_have_changed(tmp_path: Path) -> None:
    publish(tmp_path, "good")
    publish(tmp_path, "bad", artifact=b"no module")
    for file in (tmp_path / "bad" / "1").iterdir():
        os.utime(file, (1e9, 1e9))
    registry = CountingRegistry(tmp_path)
    followed = Catalogue(Mirror(registry), lambda m, a: Model(m, a), keep_versions=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "_SETTLED_SECONDS", -10.0)  # as if these files were older

        refused = [followed.line_up().absent for _ in range(3)]
        read = registry.artifacts
        (tmp_path / "bad" / "1" / "model.pt").write_bytes(artifact_of(BrightestRow()))
        followed.line_up()

    assert [absent.name for (absent,) in refused] == ["bad"] * 3
    assert (read, registry.artifacts) == (2, 3)


def test_an_artifact_over_the_limit_is_not_read(tmp_path: Path) -> None:
    publish(tmp_path, "good")
    publish(tmp_path, "large", artifact=bytes(100_000))
    registry = CountingRegistry(tmp_path)

    line_up = Catalogue(
        Mirror(registry), lambda m, a: Model(m, a), keep_versions=0, max_artifact_bytes=50_000
    ).line_up()

    assert said_of(line_up) == {"good": (1, ())}
    assert "its artifact must have at most 50,000 bytes. Given: 100,000" in line_up.absent[0].reason
    assert registry.artifacts == 1


def test_without_the_registry_everything_is_served_that_was_before_from_the_copy(tmp_path: Path) -> None:
    root = tmp_path / "models"
    for name in ("a", "b", "b"):
        publish(root, name)
    registry = Registry(root)
    registry.promote("b", 2)
    registry.set_alias("b", "canary", 1)

    def start() -> Catalogue:
        cache = Cache(tmp_path / "cache", str(root), 10**9)
        return Catalogue(Mirror(registry, cache), lambda m, a: Model(m, a), keep_versions=1)

    before = start().line_up()
    root.rename(tmp_path / "away")
    restored, first = start().restored(), start().first_line_up("a")
    with pytest.raises(RegistryError, match="Given: no model"):
        catalogue(root).first_line_up("a")

    assert said_of(restored) == said_of(first) == said_of(before) == {"a": (1, ()), "b": (2, ("production",))}
    assert servable(restored) == servable(before)


def test_what_the_copy_of_another_group_lacks_is_loading_and_refused_only_if_the_registry_is_gone(
    tmp_path: Path,
) -> None:
    root = tmp_path / "models"
    for name in ("a", "b"):
        publish(root, name)

    def start(group: str) -> Catalogue:
        mirror = Mirror(Registry(root), Cache(tmp_path / "cache", str(root), 10**9))
        return Catalogue(mirror, lambda m, a: Model(m, a), keep_versions=0, choose=lambda _: [group])

    start("a").line_up()
    late = start("b")
    at_first = late.restored()
    root.rename(tmp_path / "away")
    without = late.without_registry(at_first)
    (tmp_path / "away").rename(root)
    later = late.line_up()

    assert (said_of(at_first), [(str(each), each.state) for each in at_first.absent]) == ({}, [("b@1", "loading")])
    assert [(str(each), each.state, each.is_production) for each in without.absent] == [("b@1", "refused", True)]
    assert "only the local copy was asked" in without.absent[0].reason
    assert (said_of(later), later.absent) == ({"b": (1, ())}, ())


def test_a_version_that_was_rolled_back_stays_for_as_long_as_requests_may_wait_for_it(tmp_path: Path) -> None:
    publish(tmp_path)
    publish(tmp_path)
    registry = Registry(tmp_path)
    registry.promote("rows", 1)
    registry.promote("rows", 2)
    followed = catalogue(tmp_path, grace_seconds=3600.0)
    followed.line_up()

    registry.rollback("rows")
    waiting = servable(followed.line_up())
    with pytest.MonkeyPatch.context() as patch:
        now = time.monotonic()
        patch.setattr(time, "monotonic", lambda: now + 3601)
        later = servable(followed.line_up())

    assert waiting == {2: (False, ()), 1: (True, ("production",))}
    assert later == {1: (True, ("production",))}
