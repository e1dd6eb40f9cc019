"""`classify`, against the real service: every file has one row, whatever is interrupted."""

from __future__ import annotations

import csv
import errno
import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from service.__main__ import main
from tests import pictures
from tests.running import Service, serving
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,000 files in ten folders, each named after the class that it shows, and what must be passed over."""
    root = tmp_path_factory.mktemp("scans")
    for class_id in range(10):
        content = pictures.row_png(class_id)
        (root / f"batch {class_id}").mkdir()
        for number in range(100):
            (root / f"batch {class_id}" / f"{number:02}-{class_id}.{'PNG' if number % 2 else 'png'}").write_bytes(
                content
            )
    (root / "notes.txt").write_text("no image, and not one by its name")
    return root


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Three good files and a bad one."""
    for class_id in range(3):
        (tmp_path / f"{class_id}.png").write_bytes(pictures.row_png(class_id))
    (tmp_path / "bad.png").write_bytes(b"hello")
    return tmp_path


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def assert_whole(file: Path) -> None:
    """Each of the 1,000 files has one row, with the class in its name."""
    rows = rows_of(file)
    assert len(rows) == len({row["path"] for row in rows}) == 1000
    assert all(row["path"].lower().endswith(f"-{row['class_id']}.png") for row in rows)
    assert all((row["label"], row["error"]) == (row["class_id"], "") for row in rows)


def start(folder: Path, out: Path, url: str) -> subprocess.Popen[str]:
    """A classify that is slow enough to be interrupted: one file at a time."""
    command = [sys.executable, "-m", "service", "classify", str(folder), "--out", str(out), "--url", url]
    slowly = ["--batch-size", "1", "--concurrency", "1", "--retry-seconds", "0.2"]
    return subprocess.Popen([*command, *slowly], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_rows(out: Path, process: subprocess.Popen[str]) -> None:
    """Wait until some rows are written; the process must still be at it."""

    def has_rows() -> bool:
        assert process.poll() is None, process.communicate()
        return out.exists() and out.read_text().count("\n") > 50

    wait_until(has_rows)


def test_every_image_has_a_row_with_its_class(
    service: Service, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["classify", str(folder), "--out", str(tmp_path / "out.csv"), "--url", service.url])

    assert code == 0
    assert_whole(tmp_path / "out.csv")
    assert capsys.readouterr().out.startswith(f"1,000 files in {tmp_path / 'out.csv'}, 0 errors, 1,000 now in ")
    assert (
        (tmp_path / "out.csv")
        .read_text()
        .startswith("path,class_id,label,probability,outlier,model,version,error\nbatch ")
    )


def test_a_service_that_dies_in_the_middle_ends_it_and_the_next_one_goes_on(
    service: Service, registry: Path, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.csv"
    with serving(registry, "--default-model", "rows", "--http-processes", "1") as dying:
        process = start(folder, out, dying.url)
        wait_for_rows(out, process)
        dying.close()
    said = process.communicate(timeout=30)
    interrupted = rows_of(out)

    code = main(["classify", str(folder), "--out", str(out), "--url", service.url])

    assert process.returncode == 1
    assert f"in {out}: {len(interrupted):,} of 1,000 files; the same command goes on" in said[1]
    assert "must answer. Given: " in said[1]
    assert "Traceback" not in said[1]
    assert 50 <= len(interrupted) < 1000
    assert code == 0
    assert_whole(out)
    assert rows_of(out)[: len(interrupted)] == interrupted


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_command_goes_on_where_it_was(
    service: Service, folder: Path, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "out.csv"
    process = start(folder, out, service.url)
    wait_for_rows(out, process)
    process.send_signal(number)
    said = process.communicate(timeout=30)[1]
    before = len(rows_of(out))

    code = main(["classify", str(folder), "--out", str(out), "--url", service.url])

    assert process.returncode == (130 if number == signal.SIGINT else -9)
    assert "Traceback" not in said
    assert 50 <= before < 1000
    assert code == 0
    assert_whole(out)


def test_files_that_fail_have_their_error_in_the_row_and_the_exit_code(service: Service, small: Path) -> None:
    code = main(["classify", str(small), "--out", str(small / "out.csv"), "--url", service.url])

    rows = {row["path"]: row for row in rows_of(small / "out.csv")}
    assert code == 1
    assert set(rows) == {"0.png", "1.png", "2.png", "bad.png"}
    assert rows["1.png"]["label"] == "1"
    assert (rows["bad.png"]["class_id"], rows["bad.png"]["label"], rows["bad.png"]["probability"]) == ("", "", "")
    assert "the image must be one of PNG" in rows["bad.png"]["error"]


def test_files_that_are_passed_over_are_counted_by_their_endings(
    service: Service, small: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (small / "phone").mkdir()
    for name in ("a.heic", "phone/b.HEIC", "c.avif", "README", ".DS_Store", "phone/.hidden.heic"):
        (small / name).touch()
    (small / "more").symlink_to(elsewhere)

    main(["classify", str(small), "--out", str(small / "out.csv"), "--url", service.url])

    [said] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("passed over ")]
    assert said.startswith("passed over 5 files: 2 .heic, ")
    assert set(said.partition(": ")[2].split(", ")) == {
        *("2 .heic", "1 .avif", "1 without an ending", "1 behind a link to a folder")
    }


def test_a_pipe_is_not_waited_for(service: Service, small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(small / "pipe.png")
    (small / "gone.png").symlink_to(small / "nowhere")

    main(["classify", str(small), "--out", str(small / "out.csv"), "--url", service.url])

    assert "passed over 1 file: 1 pipe or device\n" in capsys.readouterr().err
    assert "No such file" in {row["path"]: row["error"] for row in rows_of(small / "out.csv")}["gone.png"]


def test_a_disk_without_room_is_named_with_what_to_do(
    service: Service, small: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("service.commands.results.Results.add", refuse)

    code = main(["classify", str(small), "--out", str(small / "out.csv"), "--url", service.url])

    assert code == 1
    expected = f"error: {small / 'out.csv'} must take what is written. Given: No space left on device. The same command"
    assert expected in capsys.readouterr().err


def test_a_folder_of_others_names_what_it_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.heic").touch()

    code = main(["classify", str(tmp_path), "--out", str(tmp_path / "out.csv")])

    assert code == 1
    assert capsys.readouterr().err.endswith(
        " must hold images (.png .jpg .jpeg .webp .gif .bmp). Given: none, but 1 .heic\n"
    )


def test_a_folder_that_cannot_be_listed_is_not_passed_over(
    small: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (small / "closed").mkdir()
    scandir = os.scandir

    def refuse(path: str) -> Any:
        if str(path).endswith("closed"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)

    code = main(["classify", str(small), "--out", str(small / "out.csv")])

    assert code == 1
    assert "Permission denied" in capsys.readouterr().err


def test_one_file_is_no_plural(service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.png").write_bytes(b"x")

    main(["classify", str(tmp_path), "--out", str(tmp_path / "out.csv"), "--url", service.url])

    assert capsys.readouterr().out.startswith(f"1 file in {tmp_path / 'out.csv'}, 1 error, 1 now in ")
    assert "Given: 1 byte that looks like text" in (tmp_path / "out.csv").read_text()


def test_rows_that_are_there_are_left_and_new_files_are_added(
    service: Service, small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = small / "out.csv"
    out.write_text("path,class_id,label,probability,outlier,model,version,error\n1.png,5,five,0.500000,,rows,1,\n")

    code = main(["classify", str(small), "--out", str(out), "--url", service.url])

    captured = capsys.readouterr()
    assert code == 1
    assert rows_of(out)[0]["label"] == "five"
    assert len(rows_of(out)) == 4
    assert captured.err.startswith(f"already in {out}: 1 file\n")
    assert "3 now in " in captured.out


def test_errors_of_an_earlier_run_still_count(service: Service, small: Path) -> None:
    arguments = ["classify", str(small), "--out", str(small / "out.csv"), "--url", service.url]
    main(arguments)

    assert main(arguments) == 1


def test_a_model_and_a_version_can_be_chosen(service: Service, small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["classify", str(small), "--out", str(small / "out.csv"), "--url", service.url, "--model", "rows"]

    code = main([*arguments, "--version", "9"])

    assert code == 1
    assert "status 404" in capsys.readouterr().err
    assert rows_of(small / "out.csv") == []


def test_a_folder_without_images_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["classify", str(tmp_path), "--out", str(tmp_path / "out.csv")])

    assert code == 1
    assert "must hold images (.png .jpg .jpeg .webp .gif .bmp). Given: none" in capsys.readouterr().err


def test_parquet_has_the_same_rows_with_types_and_is_added_to(
    service: Service, small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = small / "out.parquet"
    arguments = ["classify", str(small), "--out", str(out), "--url", service.url]
    main(arguments)
    first = parquet.read_table(out).to_pylist()
    (small / "3.png").write_bytes(pictures.row_png(3))

    main(arguments)

    second = {row["path"]: row for row in parquet.read_table(out).to_pylist()}
    assert sorted(row["path"] for row in first) == ["0.png", "1.png", "2.png", "bad.png"]
    assert all(second[row["path"]] == row for row in first)
    assert second["3.png"]["class_id"] == 3
    assert isinstance(second["3.png"]["probability"], float)
    assert (second["3.png"]["model"], second["3.png"]["version"]) == ("rows", 1)
    assert second["bad.png"]["class_id"] is None
    assert "must be one of PNG" in second["bad.png"]["error"]
    assert not list(small.glob("out.parquet.*"))


def test_a_file_whose_name_is_no_text_is_classified_too(service: Service, tmp_path: Path) -> None:
    name = os.fsdecode(b'\xff, "odd"\n.png')
    (tmp_path / name).write_bytes(pictures.row_png(4))
    arguments = ["classify", str(tmp_path), "--out", str(tmp_path / "out.csv"), "--url", service.url]

    codes = main(arguments), main(arguments)

    text = (tmp_path / "out.csv").read_text(errors="surrogateescape")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert codes == (0, 0)
    assert [(row["path"], row["class_id"]) for row in rows] == [(name, "4")]
