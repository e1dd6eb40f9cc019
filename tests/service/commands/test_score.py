"""`score`, as a person types it."""

from __future__ import annotations

import importlib.util
import uuid
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from service.__main__ import main
from tests.registries import publish
from tests.service.bulk.scored import content, expect_every_image_once, parts_of, rows_of, write_images


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images", 45)


def command(source: Path | str, out: Path | str, registry: Path, *more: str) -> list[str]:
    return ["score", str(source), "--out", str(out), "--model", "rows", "--registry", str(registry), *more]


def test_a_folder_is_scored_and_the_summary_counts(
    images: Path, registry: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(command(images, tmp_path / "out", registry, "--shard-size", "10"))

    said = capsys.readouterr()
    assert code == 0
    assert said.out.startswith("45 images scored in ")
    assert said.out.endswith(f"2 errors\n45 rows in {tmp_path / 'out'}\n")
    assert said.err.startswith("45 images in 5 shards by rows@1\n")
    expect_every_image_once(tmp_path / "out", 45)


def test_files_that_are_passed_over_are_counted_by_their_endings(
    registry: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = write_images(tmp_path / "images", 1)
    for name in ("a.heic", "b.HEIC", "c.cr2", ".DS_Store"):
        (images / name).touch()

    main(command(images, tmp_path / "out", registry))

    said = capsys.readouterr()
    assert said.err == "1 image in 1 shard by rows@1\npassed over 3 files: 2 .heic, 1 .cr2\n"
    assert said.out.startswith("1 image scored in ")
    assert said.out.endswith(f"\n1 row in {tmp_path / 'out'}\n")


def test_the_model_may_be_in_any_of_several_registries(
    images: Path, registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tmp_path / "mine", "other")
    monkeypatch.setenv("SERVICE_REGISTRY", f"{tmp_path / 'mine'},{registry}")

    assert main(["score", str(images), "--out", str(tmp_path / "out"), "--model", "rows"]) == 0

    expect_every_image_once(tmp_path / "out", 45)


def test_a_list_of_files_gives_its_rows_in_its_order(images: Path, registry: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("images/00/00003.png\nimages/none.png\nimages/00/00001.png\n")

    assert main(command(tmp_path / "list.txt", tmp_path / "out", registry)) == 0

    found = [(row["path"], row["class_id"], row["error"]) for row in rows_of(tmp_path / "out")]
    assert found == [
        ("images/00/00003.png", 3, None),
        ("images/none.png", None, "the file must be readable. Given: No such file or directory"),
        ("images/00/00001.png", 1, None),
    ]


def test_parquet_with_the_bytes_of_images_is_scored(registry: Path, tmp_path: Path) -> None:
    rows = [{"bytes": content(n), "path": f"{n:05d}.png"} for n in range(45)]
    (tmp_path / "tables").mkdir()
    pq.write_table(pa.table({"image": rows[:30]}), tmp_path / "tables" / "a.parquet", row_group_size=7)
    pq.write_table(pa.table({"image": rows[30:]}), tmp_path / "tables" / "b.parquet")

    assert main(command(tmp_path / "tables", tmp_path / "out", registry, "--shard-size", "10")) == 0

    expect_every_image_once(tmp_path / "out", 45)


def test_a_bucket_is_scored_into_a_bucket(registry: Path, tmp_path: Path, bucket: str) -> None:
    fs, root = fsspec.url_to_fs(f"{bucket}/{uuid.uuid4().hex}")
    fs.pipe({f"{root}/images/{n:05d}.png": content(n) for n in range(45)})

    assert main(command(f"s3://{root}/images", f"s3://{root}/out", registry, "--shard-size", "10")) == 0
    assert main(command(f"s3://{root}/images", f"s3://{root}/out", registry, "--shard-size", "10")) == 0

    fs.invalidate_cache()
    fs.get(f"{root}/out/", str(tmp_path / "out"), recursive=True)
    expect_every_image_once(tmp_path / "out", 45)
    assert len(parts_of(tmp_path / "out")) == 5


def test_a_new_version_in_production_is_another_plan(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    registry = tmp_path / "registry"
    publish(registry)
    main(command(images, tmp_path / "out", registry))
    publish(registry)

    code = main(command(images, tmp_path / "out", registry))

    assert code == 1
    assert "was begun with rows@1" in capsys.readouterr().err
    assert main(command(images, tmp_path / "out", registry, "--version", "1")) == 0


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--address", "auto"], "--address and --actors must be given with --engine ray"),
        (["--shard-size", "0"], "must be a whole number of at least 1"),
    ],
    ids=["a cluster without the engine", "empty shards"],
)
def test_wrong_options_are_wrong_usage(
    tmp_path: Path, registry: Path, capsys: pytest.CaptureFixture[str], more: list[str], said: str
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(command(tmp_path, tmp_path / "out", registry, *more))

    assert exit_.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "model", "said"),
    [
        ("nowhere", "rows", "SOURCE must exist"),
        ("", "none", "model must be one of"),
        ("", "sign", "one of images"),
        ("nos3://bucket", "rows", "SOURCE must be readable. Given: nos3://bucket: Protocol not known: nos3"),
    ],
    ids=["no source", "no model", "a model of features", "no such store"],
)
def test_what_cannot_be_scored_is_said(
    tmp_path: Path,
    registry: Path,
    capsys: pytest.CaptureFixture[str],
    source: str,
    model: str,
    said: str,
) -> None:
    place = source if "://" in source else str(tmp_path / source)
    arguments = ["score", place, "--out", str(tmp_path / "out"), "--model", model]

    assert main([*arguments, "--registry", str(registry)]) == 1
    assert said in capsys.readouterr().err


def test_a_destination_that_no_store_has_is_said(
    images: Path, registry: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(images, "nos3://bucket", registry)) == 1
    assert "--out must be a folder or a URL that can be written to. Given: nos3://bucket: " in capsys.readouterr().err


@pytest.mark.parametrize(("package", "extra"), [("pyarrow", "parquet"), ("ray", "ray")])
def test_a_missing_package_is_named_with_its_extra(
    tmp_path: Path,
    registry: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    package: str,
    extra: str,
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find_spec(name))

    assert main(command(tmp_path, tmp_path / "out", registry, "--engine", "ray")) == 1
    assert f"needs {package}: pip install 'argmax[{extra}]'" in capsys.readouterr().err


def test_a_run_without_all_parts_fails_and_says_how_to_go_on(
    images: Path, registry: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr("service.bulk.scoring.Scorer._rows", fail)

    code = main(command(images, tmp_path / "out", registry, "--shard-size", "20"))

    said = capsys.readouterr().err
    assert code == 1
    assert "shard 0: the disk is full" in said
    assert "3 of 3 without; the same command goes on" in said
