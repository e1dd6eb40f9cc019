"""A destination belongs to one plan, which is as exact as its images, version and limits."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from service.bulk import plan as planning
from service.bulk.destination import Destination
from service.bulk.plan import PlanError
from tests.registries import publish
from tests.service.bulk.scored import planned, write_images


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images", 25)


def test_a_plan_divides_the_images_into_shards_and_keeps_their_order(
    tmp_path: Path, images: Path, registry: Path
) -> None:
    work = planned(images, tmp_path / "out", registry)
    destination = Destination(str(tmp_path / "out"))

    shards = [work.plan.entries(destination, shard) for shard in range(work.plan.shards)]

    assert (work.plan.images, [len(shard) for shard in shards]) == (25, [10, 10, 5])
    assert [entry.path for shard in shards for entry in shard] == [b"%02d/%05d.png" % (n // 20, n) for n in range(25)]
    assert work.missing == [0, 1, 2]


def test_shards_beyond_one_file_of_entries_are_found(
    tmp_path: Path, images: Path, registry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "_SHARDS_PER_FILE", 2)

    work = planned(images, tmp_path / "out", registry)

    (entry,) = work.plan.entries(Destination(str(tmp_path / "out")), 2)[:1]
    assert entry.path == b"01/00020.png"


def test_the_same_plan_is_taken_up_again(tmp_path: Path, images: Path, registry: Path) -> None:
    first = planned(images, tmp_path / "out", registry)
    again = planned(images, tmp_path / "out", registry)

    assert again.plan == first.plan


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"shard_size": 5}, "shard_size 10, not 5"),
        ({"max_pixels": 9}, "max_pixels 32000000, not 9"),
        ({"form": "published"}, "form fastest, not published"),
    ],
    ids=["another size of shards", "another limit", "another form"],
)
def test_other_terms_are_refused_for_the_same_destination(
    tmp_path: Path, images: Path, registry: Path, settings: dict[str, Any], said: str
) -> None:
    planned(images, tmp_path / "out", registry)

    with pytest.raises(PlanError, match=f"was begun with {said}. Give the same, or name another --out"):
        planned(images, tmp_path / "out", registry, **settings)


def test_another_artifact_under_the_same_number_is_refused(tmp_path: Path, images: Path, registry: Path) -> None:
    publish(tmp_path / "other", "rows")
    planned(images, tmp_path / "out", registry)

    with pytest.raises(PlanError, match=r"begun with rows@1 \(\w+\), not rows@1 \("):
        planned(images, tmp_path / "out", tmp_path / "other")


def test_another_source_is_refused(tmp_path: Path, images: Path, registry: Path) -> None:
    planned(images, tmp_path / "out", registry)

    with pytest.raises(PlanError, match="begun with source"):
        planned(write_images(tmp_path / "others", 25), tmp_path / "out", registry)


@pytest.mark.parametrize("change", ["added", "removed", "renamed"])
def test_a_source_that_has_changed_is_refused(tmp_path: Path, images: Path, registry: Path, change: str) -> None:
    planned(images, tmp_path / "out", registry)
    file = images / "00" / "00003.png"
    if change == "added":
        (images / "new.png").write_bytes(b"")
    elif change == "removed":
        file.unlink()
    else:
        file.rename(images / "00" / "00003.jpg")

    with pytest.raises(PlanError, match=r"must hold what .* was begun with, 25 images"):
        planned(images, tmp_path / "out", registry)


def test_a_folder_with_parts_of_something_else_is_refused(tmp_path: Path, images: Path, registry: Path) -> None:
    Destination(str(tmp_path / "out")).write(b"rows", "part-000000.parquet")

    with pytest.raises(PlanError, match="must be new"):
        planned(images, tmp_path / "out", registry)


def test_a_plan_that_was_cut_off_is_no_plan(tmp_path: Path, images: Path, registry: Path) -> None:
    Destination(str(tmp_path / "out")).write(b'{"schema_version": 1, "te', "_plan", "plan.json")

    with pytest.raises(PlanError, match="must be a whole plan"):
        planned(images, tmp_path / "out", registry)


def test_a_planner_that_died_before_the_end_is_followed_by_another(
    tmp_path: Path, images: Path, registry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Destination, "claim", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            planned(images, tmp_path / "out", registry)

    assert planned(images, tmp_path / "out", registry).plan.images == 25


def test_of_planners_at_the_same_time_all_get_the_plan_of_one(tmp_path: Path, images: Path, registry: Path) -> None:
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(planned(images, tmp_path / "out", registry))) for _ in range(4)
    ]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(found) == 4
    assert len({work.plan.folder for work in found}) == 1
    assert len([path for path in (tmp_path / "out" / "_plan").iterdir() if path.is_dir()]) == 1


def test_a_row_group_is_not_divided(tmp_path: Path, registry: Path) -> None:
    (tables := tmp_path / "tables").mkdir()
    for name, rows, group in (("a", 4, 2), ("b", 25, 25), ("c", 6, 3)):
        pq.write_table(pa.table({"image": [b""] * rows}), tables / f"{name}.parquet", row_group_size=group)

    work = planned(tables, tmp_path / "out", registry)
    destination = Destination(str(tmp_path / "out"))

    shards = [[entry.rows for entry in work.plan.entries(destination, n)] for n in range(work.plan.shards)]
    assert shards == [[2, 2], [25], [3, 3]]
