from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from training.learning.progress import BarProgress, Epoch, LineProgress, open_progress
from training.learning.validation import Validation


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def run_an_epoch(progress: BarProgress | LineProgress, iterations: int, validation: Validation | None = None) -> None:
    with progress:
        progress.start_epoch(1, 10, iterations)
        for _ in range(iterations):
            progress.due()
        progress.end_epoch(Epoch(0.25, 0.9, 50_000, validation))


@pytest.mark.parametrize("width", [80, 160])
def test_a_terminal_gets_bars_that_fit_it_with_epoch_iteration_loss_accuracy_validation_and_time_left(
    width: int,
) -> None:
    screen = io.StringIO()
    progress = BarProgress(Console(file=screen, force_terminal=True, width=width))

    run_an_epoch(progress, 10_000, Validation(10.5, 1.0))

    lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue()))
    assert max(len(line) for line in lines) <= width
    assert re.fullmatch(r"epoch +[━╸╺]+ +1/10 +validation 10\.5000 +100\.00% +[-\d]:[-\d]+:[-\d]+", lines[-3].rstrip())
    assert re.fullmatch(
        r"iteration ━+ 10000/10000 loss 0\.2500  accuracy +90\.00% +[-\d]:[-\d]+:[-\d]+", lines[-2].rstrip()
    )


def test_anything_else_gets_one_plain_line_an_epoch() -> None:
    stream = io.StringIO()
    progress = LineProgress(stream)

    run_an_epoch(progress, 196)

    assert re.fullmatch(
        r"epoch  1/10  196 iterations  loss 0\.2500  accuracy  90\.00%  [\d,]+/s  0\.0 s\n", stream.getvalue()
    )


def test_a_validated_epochs_line_has_both_and_fits_80_columns() -> None:
    stream = io.StringIO()
    progress = LineProgress(stream)

    run_an_epoch(progress, 196, Validation(10.25, 0.5))

    assert stream.getvalue() == ("epoch  1/10  loss 0.2500  accuracy  90.00%  validation 10.2500  50.00%  0.0 s\n")
    assert len(stream.getvalue()) <= 80


def test_the_stream_decides_between_bars_and_lines() -> None:
    assert isinstance(open_progress(Terminal()), BarProgress)
    assert isinstance(open_progress(io.StringIO()), LineProgress)


def test_numbers_are_read_ten_times_a_second_and_not_at_every_iteration() -> None:
    progress = BarProgress(Console(file=io.StringIO(), force_terminal=True))
    with progress:
        progress.start_epoch(1, 1, 1000)

        due = sum(progress.due() for _ in range(1000))

    assert due == 0


def test_a_line_comes_every_so_many_iterations_when_that_is_asked_for() -> None:
    stream = io.StringIO()
    progress = open_progress(stream, log_every=2)
    with progress:
        progress.start_epoch(1, 10, 5)
        for iteration in range(1, 6):
            if progress.due():
                progress.show(1 / iteration, 0.5, examples=iteration)
        progress.end_epoch(Epoch(0.2, 0.5, 5))

    assert re.findall(r"^epoch  1/10  (.*?)  loss ([\d.]+)", stream.getvalue(), re.MULTILINE) == [
        ("iteration 2/5", "0.5000"),
        ("iteration 4/5", "0.2500"),
        ("5 iterations", "0.2000"),
    ]


def test_a_terminal_gets_the_lines_too_in_place_of_bars() -> None:
    assert isinstance(open_progress(Terminal(), log_every=2), LineProgress)
