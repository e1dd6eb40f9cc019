"""The file of results: what is whole stays, what was cut off goes, what is something else is left alone."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from service.client import Prediction, PredictionError
from service.commands.results import Results, ResultsError

HEADER = "path,class_id,label,probability,outlier,model,version,error\n"
SEVEN = Prediction(7, "seven", 0.5, outlier=False, model="rows", version=3)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.csv"


def test_a_row_has_what_was_predicted_or_why_not(path: Path) -> None:
    with Results(path) as results:
        results.add("a.png", SEVEN)
        results.add("b.png", PredictionError(400, 'it must "decode", whole'))

    assert (
        path.read_text() == HEADER + 'a.png,7,seven,0.500000,false,rows,3,\nb.png,,,,,,,"it must ""decode"", whole"\n'
    )
    assert results.failed == 1


@pytest.mark.parametrize(
    "cut",
    ["b.png,7,sev", "b.png", '"b, or', '"b\nor', 'b.png,,,,,,,"a\nb', HEADER[:9]],
    ids=repr,
)
def test_a_row_that_was_cut_off_is_written_again(path: Path, cut: str) -> None:
    path.write_text(f"{HEADER}a.png,7,seven,0.500000,false,rows,3,\n{cut}")

    with Results(path) as results:
        assert results.done == {"a.png"}
        results.add("b.png", SEVEN)

    assert path.read_text() == f"{HEADER}a.png,7,seven,0.500000,false,rows,3,\nb.png,7,seven,0.500000,false,rows,3,\n"


@pytest.mark.parametrize("start", ["", "pa", HEADER[:-1], HEADER])
def test_a_file_that_has_hardly_begun_is_begun_again(path: Path, start: str) -> None:
    path.write_text(start)

    with Results(path) as results:
        results.add("a.png", SEVEN)

    assert path.read_text() == f"{HEADER}a.png,7,seven,0.500000,false,rows,3,\n"


@pytest.mark.parametrize("name", ["a,b", 'a"b', "a\nb", "a\r\nb", "a b", "\udcff"])
def test_a_name_of_any_kind_is_found_again(path: Path, name: str) -> None:
    with Results(path) as results:
        results.add(name, SEVEN)
        results.add("last", PredictionError(None, "no"))

    with Results(path) as again:
        assert again.done == {name, "last"}
        assert again.failed == 1


@pytest.mark.parametrize("content", ["name,age\nx,1\n", "\n", "x" * 1000], ids=["another table", "a line", "no line"])
def test_a_file_of_something_else_is_refused_and_left_as_it_is(path: Path, content: str) -> None:
    path.write_text(content)

    with pytest.raises(ResultsError, match="must be new, or hold"):
        Results(path)

    assert path.read_text() == content


def test_a_device_is_not_read_without_end(tmp_path: Path) -> None:
    (tmp_path / "zero.csv").symlink_to("/dev/zero")

    with pytest.raises(ResultsError, match=r"--out must be a file, or new\. Given: .*zero\.csv, which is neither"):
        Results(tmp_path / "zero.csv")


def test_two_processes_cannot_write_one_file(path: Path) -> None:
    with Results(path), pytest.raises(ResultsError, match=r"one process at a time may write .*out.csv"):
        Results(path)


def test_rows_reach_the_disk_before_the_end(path: Path) -> None:
    with Results(path) as results:
        for number in range(100):
            results.add(f"{number}.png", SEVEN)

        assert path.read_text().count("\n") > 50


def test_parquet_without_pyarrow_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    with pytest.raises(ResultsError, match=r"needs pyarrow: pip install argmax\[parquet\], or write .csv. Given: "):
        Results(tmp_path / "out.parquet")

    assert list(tmp_path.iterdir()) == []


def test_parquet_that_was_interrupted_keeps_its_rows_until_it_is_finished(tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    with Results(path) as results:
        results.add("a.png", SEVEN)
    assert not path.exists()

    with Results(path) as results:
        assert results.done == {"a.png"}
        results.add("b.png", SEVEN)
        results.finish()

    seven = {"class_id": 7, "label": "seven", "probability": 0.5, "outlier": False, "model": "rows"}
    seven |= {"version": 3, "error": None}
    assert parquet.read_table(path).to_pylist() == [{"path": "a.png", **seven}, {"path": "b.png", **seven}]
    assert list(tmp_path.iterdir()) == [path]


def test_parquet_of_something_else_is_refused(tmp_path: Path) -> None:
    parquet.write_table(pyarrow.table({"x": [1]}), tmp_path / "out.parquet")

    with pytest.raises(ResultsError, match=r"must be new, or hold the columns .* Given: x"):
        Results(tmp_path / "out.parquet")


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_file_of_one_model_is_not_gone_on_with_by_another(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out.{suffix}"
    with Results(path) as results:
        results.add("a.png", SEVEN)
        results.add("b.png", PredictionError(400, "no image"))
        results.finish()

    with Results(path) as results:
        results.expect(None, None)
        results.expect("rows", "3")
        results.expect("rows", "production")
        with pytest.raises(ResultsError, match=r"--model must be rows, whose .* Given: columns\. Write another"):
            results.expect("columns", None)
        with pytest.raises(ResultsError, match=r"--version must be 3, .* Given: 4"):
            results.expect("rows", "4")
        with pytest.raises(ResultsError, match=r"answers of the model that it has, rows\. Given: one of columns"):
            results.add("c.png", replace(SEVEN, model="columns"))


def test_a_picture_without_a_label_is_a_row_without_one_also_in_parquet(tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    blank = Prediction(None, None, None, outlier=True, blank=True, model="rows", version=3)

    with Results(path) as results:
        results.add("a.png", blank)
        results.add("b.png", Prediction(7, "seven", 0.5, model="rows", version=1))
        results.finish()

    first, second = parquet.read_table(path).to_pylist()
    assert (first["class_id"], first["label"], first["probability"], first["outlier"]) == (None, None, None, True)
    assert (second["label"], second["outlier"]) == ("seven", None)
