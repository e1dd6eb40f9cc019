"""A run computes what is missing, once, and marks the destination only when nothing is."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from service.bulk import local
from service.bulk.plan import PlanError
from service.bulk.run import finish
from service.bulk.scoring import Job, Report, Scorer
from tests.service.bulk.scored import (
    NOTHING,
    expect_every_image_once,
    parts_of,
    planned,
    score,
    write_images,
)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images", 45)


def test_every_image_is_scored_once(images: Path, registry: Path, tmp_path: Path) -> None:
    result = score(images, tmp_path / "out", registry)

    assert result == (45, 2, [], [])
    expect_every_image_once(tmp_path / "out", 45)


def test_what_other_machines_are_told_does_not_depend_on_where_the_driver_was_started(
    images: Path, registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    job = planned("images", "out", Path(os.path.relpath(registry, tmp_path))).job

    assert (job.source, job.destination) == (f"file://{images}", f"{tmp_path / 'out'}")
    assert Path(job.registry.removeprefix("file://")).samefile(registry)
    assert job.registry.startswith("file:///")


@pytest.mark.parametrize(
    ("wanted", "there", "device"), [("auto", True, "cuda:0"), ("auto", False, "cpu"), ("cpu", True, "cpu")]
)
def test_a_run_without_a_cluster_takes_the_device_of_the_settings(
    monkeypatch: pytest.MonkeyPatch, wanted: str, there: bool, device: str
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: there)

    assert str(local._device(wanted)) == device


@pytest.mark.parametrize("place", ["images/out", "images", "images/../images/out", "link/out"])
def test_results_may_not_lie_among_the_images(images: Path, registry: Path, tmp_path: Path, place: str) -> None:
    (tmp_path / "link").symlink_to(images)

    with pytest.raises(PlanError, match="--out must lie outside SOURCE, which it would change"):
        planned(images, tmp_path / place, registry)

    assert not (images / "out").exists()
    assert planned(images, f"{images}-out", registry).missing


def test_a_second_run_has_nothing_to_do(images: Path, registry: Path, tmp_path: Path) -> None:
    score(images, tmp_path / "out", registry)

    assert (
        score(images, tmp_path / "out", registry, engine=lambda *_: pytest.fail("there is nothing to do")).images == 0
    )


def test_a_deleted_part_alone_is_computed_again_and_is_the_same(images: Path, registry: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    score(images, out, registry)
    before, times = parts_of(out), {path: path.stat().st_mtime_ns for path in out.glob("part-*")}
    (out / "part-000002.parquet").unlink()

    result = score(images, out, registry)

    assert result.images == 10
    assert parts_of(out) == before
    changed = [path.name for path in times if path.stat().st_mtime_ns != times[path]]
    assert changed == ["part-000002.parquet"]
    expect_every_image_once(out, 45)


def test_a_run_that_is_interrupted_goes_on(images: Path, registry: Path, tmp_path: Path) -> None:
    def interrupted(job: Job, shards: Iterable[int], advance: Callable[[int], None]) -> Iterator[Report]:
        for report in local.score(job, shards, advance):
            yield report
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(images, tmp_path / "out", registry, engine=interrupted)

    assert not (tmp_path / "out" / "_SUCCESS").exists()
    assert score(images, tmp_path / "out", registry).images == 35
    expect_every_image_once(tmp_path / "out", 45)


def test_a_shard_that_fails_leaves_the_others_done_and_the_destination_unmarked(
    images: Path, registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = Scorer._rows
    with monkeypatch.context() as patch:

        def fail(self: Scorer, shard: int, advance: Callable[[int], None]) -> object:
            if shard == 1:
                raise OSError("the bucket is away")
            return rows(self, shard, advance)

        patch.setattr(Scorer, "_rows", fail)
        result = score(images, tmp_path / "out", registry)

    assert result == (35, 2, [1], ["shard 1: the bucket is away"])
    assert not (tmp_path / "out" / "_SUCCESS").exists()
    assert score(images, tmp_path / "out", registry).missing == []
    expect_every_image_once(tmp_path / "out", 45)


def test_the_mark_is_taken_away_while_a_part_is_missing(images: Path, registry: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    score(images, out, registry)
    (out / "part-000000.parquet").unlink()

    finish(planned(images, out, registry), lambda *_: iter(()), NOTHING)

    assert not (out / "_SUCCESS").exists()


def test_what_an_engine_claims_counts_for_nothing_without_the_parts(
    images: Path, registry: Path, tmp_path: Path
) -> None:
    result = score(
        images, tmp_path / "out", registry, engine=lambda job, shards, advance: (Report(n, 10) for n in shards)
    )

    assert result.missing == [0, 1, 2, 3, 4]
    assert not (tmp_path / "out" / "_SUCCESS").exists()
