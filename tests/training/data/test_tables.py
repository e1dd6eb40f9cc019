from __future__ import annotations

from pathlib import Path

import pytest

from training.data import sources
from training.errors import TrainingError

ROWS = "kind,height,width\n" + "".join(f"{kind},{i}.5,{-i}\n" for i in range(10) for kind in ("cat", "ant"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "animals.csv"
    path.write_text(ROWS)
    return path


def test_a_csv_file_becomes_features_and_classes_with_every_fifth_of_each_class_for_testing(file: Path) -> None:
    train, test = (sources.load(f"csv:{file}:kind", split, Path()) for split in ("train", "test"))

    assert (train.title, test.title) == ("animals/train", "animals/test")
    assert (len(train), len(test)) == (16, 4)
    assert test.classes == ("ant", "cat")
    assert test.inputs.tolist() == [[0.5, 0.0], [0.5, 0.0], [5.5, -5.0], [5.5, -5.0]]
    assert test.labels.tolist() == [1, 0, 1, 0]
    assert test.columns == ("height", "width")


def test_without_a_name_the_last_column_is_the_label_and_numbers_sort_as_numbers(file: Path) -> None:
    file.write_text("x,y\n1,10\n2,9\n3,10\n4,9\n")

    data = sources.load(f"csv:{file}", "train", Path())

    assert data.classes == ("9", "10")


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (ROWS, ":colour", r"label must be a column of .*animals\.csv: kind, height, width\. Given: colour"),
        (ROWS, "", r"numbers beside the column width\. Given: .*'cat'"),
        ("a,b\n1,x\n", "", r"two or more classes, each two or more rows of the column b\. Given: one class, x"),
        ("a,b\n1,x\n2\n", "", r"2 columns in every row\. Given: 1 in row 3"),
        ("", "", r"CSV file with a header"),
    ],
)
def test_a_file_that_will_not_do_is_an_error_that_says_why(file: Path, content: str, name: str, message: str) -> None:
    file.write_text(content)

    with pytest.raises(TrainingError, match=message):
        sources.load(f"csv:{file}{name}", "train", Path())


def test_a_file_that_is_not_there_is_an_error() -> None:
    with pytest.raises(TrainingError, match=r"nowhere\.csv must be a CSV file"):
        sources.load("csv:nowhere.csv", "train", Path())


def test_columns_without_a_name_are_columns(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(",,kind\n" + "".join(f"{i},{-i},{'ab'[i % 2]}\n" for i in range(20)))

    assert sources.load(f"csv:{tmp_path}/t.csv", "train", tmp_path).columns == ("", "")
