"""A shard's part has a row for each image, in order, and is computed as a worker computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn

from service.bulk import scoring
from service.bulk.destination import Destination
from service.bulk.parts import FAILED, SCHEMA, Rows
from service.bulk.run import Work
from service.bulk.scoring import Scorer
from service.bulk.sources import SourceError
from service.contract.registry import CorruptVersionError
from service.model.model import Model
from service.model.outputs import Outputs
from tests.pictures import bomb
from tests.registries import DIGITS, publish
from tests.service.bulk.scored import ERROR, content, digit, parts_of, planned, rows_of, score, write_images

CPU = torch.device("cpu")


def scorer_of(work: Work) -> Scorer:
    return Scorer(work.job, device=CPU, cores=2)


@pytest.fixture
def work(tmp_path: Path, registry: Path) -> Work:
    return planned(write_images(tmp_path / "images", 25), tmp_path / "out", registry, max_batch_size=4)


def test_a_part_has_a_row_for_each_image_in_the_order_of_the_plan(work: Work, tmp_path: Path) -> None:
    heard: list[int] = []

    report = scorer_of(work).score(0, heard.append)

    rows = rows_of(tmp_path / "out")
    assert report == (0, 10, 1, "")
    assert heard == [4, 4, 2]
    assert [row["path"] for row in rows] == [f"00/{n:05d}.png" for n in range(10)]
    digest = work.plan.terms.manifest.artifact.sha256
    same = {"model": "rows", "version": 1, "digest": digest, "outlier": None}
    empty = dict.fromkeys(("class_id", "label", "probability"))
    assert rows[0] == {"path": "00/00000.png", **empty, **same, "error": ERROR}
    assert rows[7]["probability"] > 0.9
    assert rows[7] == {"path": "00/00007.png", "class_id": 7, "label": "7", **same, "error": None} | {
        "probability": rows[7]["probability"]
    }


def test_every_part_has_the_same_schema_even_if_all_of_it_is_errors(tmp_path: Path, registry: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"")
    work = planned(tmp_path / "images", tmp_path / "out", registry)

    scorer_of(work).score(0)

    assert pq.read_schema(tmp_path / "out" / "part-000000.parquet") == SCHEMA


def test_the_limits_of_the_service_hold(tmp_path: Path, registry: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "bomb.png").write_bytes(bomb())
    (tmp_path / "images" / "digit.png").write_bytes(digit(3))
    work = planned(tmp_path / "images", tmp_path / "out", registry)

    scorer_of(work).score(0)

    errors = [row["error"] for row in rows_of(tmp_path / "out")]
    assert errors == ["the image must have at most 32,000,000 pixels. Given: 20000 x 20000", None]


def test_a_part_that_is_there_is_not_computed_again(work: Work, tmp_path: Path) -> None:
    Destination(work.job.destination).write(b"mine", "part-000001.parquet")

    assert scorer_of(work).score(1) == (1, 0, 0, "")
    assert parts_of(tmp_path / "out") == {"part-000001.parquet": b"mine"}


def test_a_shard_whose_store_fails_is_reported_and_has_no_part(
    work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = scorer_of(work)
    with monkeypatch.context() as patch:
        patch.setattr(scoring, "batches", lambda *_, **__: (_ for _ in ()).throw(SourceError("the bucket is away")))
        report = scorer.score(0)

    assert report == (0, 0, 0, "the bucket is away")
    assert parts_of(tmp_path / "out") == {}
    assert scorer.score(0).images == 10


def test_a_store_that_fails_in_a_thread_fails_the_shard(
    work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise SourceError("the bucket is away")

    monkeypatch.setattr("service.bulk.reading._read_once", fail)

    assert scorer_of(work).score(0).failure == "the bucket is away"
    assert parts_of(tmp_path / "out") == {}


def test_a_shard_that_ends_every_process_is_given_up_in_this_run_alone(
    work: Work, tmp_path: Path, registry: Path
) -> None:
    for number in range(5):
        Destination(work.job.destination).write(b"begun\n", "_plan", "trying", f"1.{number}")
    scorer = scorer_of(work)

    reports = [scorer.score(shard) for shard in (0, 1)]
    again = score(tmp_path / "images", tmp_path / "out", registry, max_batch_size=4)

    assert [report.images for report in reports] == [10, 0]
    assert reports[1].failure == "a shard must not end the process that scores it. Given: 5 that it ended"
    assert (again.images, again.missing) == (15, [])


def test_a_process_that_ends_in_a_shard_leaves_a_trace_and_one_that_fails_does_not(
    work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trying = tmp_path / "out" / "_plan" / "trying"
    seen: list[list[str]] = []

    def fail(*_: Any) -> None:
        seen.append([path.name.partition(".")[0] for path in trying.iterdir()])
        raise OSError("full")

    monkeypatch.setattr(Scorer, "_rows", fail)
    scorer_of(work).score(2)

    assert seen == [["2"]]
    assert list(trying.iterdir()) == []


class FailsOnSevens(nn.Module):
    """BrightestRow that cannot compute a batch with a seven."""

    def forward(self, images: Tensor) -> Tensor:
        rows = images[:, 0, :10].float().sum(dim=2) / 255
        if bool((rows.argmax(dim=1) == 7).any()) and bool((rows.max(dim=1)[0] > 27).any()):
            raise ValueError("a seven")
        return rows


def test_an_image_that_the_model_fails_on_fails_alone(tmp_path: Path) -> None:
    inputs = torch.arange(2 * 28 * 28).remainder(251).to(torch.uint8).view(2, 1, 28, 28)
    logits = (inputs[:, 0, :10].float().sum(dim=2) / 255).tolist()
    publish(tmp_path / "registry", "rows", FailsOnSevens(), logits=logits)
    work = planned(write_images(tmp_path / "images", 10), tmp_path / "out", tmp_path / "registry")

    scorer_of(work).score(0)

    rows = rows_of(tmp_path / "out")
    assert [row["class_id"] for row in rows] == [None, *range(1, 7), None, 8, 9]
    assert rows[7]["error"] == FAILED


def test_an_artifact_that_is_not_the_one_of_the_plan_is_refused(work: Work, registry: Path, tmp_path: Path) -> None:
    publish(tmp_path / "other", "rows", artifact=(registry / "rows" / "1" / "model.pt").read_bytes() + b"more")
    job = work.job.model_copy(update={"registry": str(tmp_path / "other")})

    with pytest.raises(CorruptVersionError, match="sha256"):
        Scorer(job, device=CPU, cores=1)


def test_all_processes_compute_in_the_form_that_the_first_one_chose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tmp_path / "registry", "rows", forms=("channels_last", "bfloat16"))
    work = planned(write_images(tmp_path / "images", 10), tmp_path / "out", tmp_path / "registry")
    made: list[str] = []
    init = Model.__init__

    def noted(self: Model, manifest: Any, artifact: bytes, form: Any = None) -> None:
        made.append(form.name)
        init(self, manifest, artifact, form)

    monkeypatch.setattr(Model, "__init__", noted)
    scorer_of(work)
    tried, made = made, []
    (tmp_path / "out" / "_plan" / "form-cpu").write_text("channels_last")

    scorer_of(work)

    assert set(tried) == {"published", "channels_last", "bfloat16"}
    assert made == ["channels_last"]


def test_outlier_scores_are_written_if_the_model_gives_them(registry: Path, work: Work) -> None:
    outputs = Outputs.of(np.eye(10, dtype=np.float32)[:2], temperature=1.0)
    rows = Rows(work.plan.terms.manifest)

    rows.add(["a", "b", "c"], [None, "bad", None], Outputs(*outputs[:3], np.array([0.25, 0.75], np.float32)))
    rows.add(["d"], [None], Outputs.of(np.eye(10, dtype=np.float32)[:1], temperature=1.0))

    import io

    table = pq.read_table(io.BytesIO(rows.to_parquet()))
    assert table.column("outlier").to_pylist() == [0.25, None, 0.75, None]
    assert table.column("label").to_pylist() == [DIGITS[0], None, DIGITS[1], DIGITS[0]]


def test_the_pictures_of_the_tests_are_what_they_claim() -> None:
    assert content(26) == digit(6)
    assert content(25) == b"nonsense"
