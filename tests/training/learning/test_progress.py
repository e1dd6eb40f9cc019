from __future__ import annotations

import io
import re

from rich.console import Console

from training.learning.progress import BarProgress, LineProgress, open_progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def run_an_epoch(progress: BarProgress | LineProgress, iterations: int) -> None:
    with progress:
        progress.start_epoch(1, 10, iterations)
        for _ in range(iterations):
            progress.due()
        progress.end_epoch(0.25, 0.9, examples=50_000)


def test_a_terminal_gets_bars_with_epoch_iteration_loss_accuracy_speed_and_time_left() -> None:
    screen = io.StringIO()
    progress = BarProgress(Console(file=screen, force_terminal=True, width=160))

    run_an_epoch(progress, 196)

    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    assert re.search(r"epoch .* 1.*/10 ", text)
    assert re.search(r"iteration .* 196/196 loss 0\.2500 +accuracy +90\.00% +[\d,]+ images/s time left", text)


def test_anything_else_gets_one_plain_line_an_epoch() -> None:
    stream = io.StringIO()
    progress = LineProgress(stream)

    run_an_epoch(progress, 196)

    assert re.fullmatch(
        r"epoch  1/10  196 iterations  loss 0\.2500  accuracy  90\.00%  [\d,]+ images/s  0\.0 s\n", stream.getvalue()
    )


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
        progress.end_epoch(0.2, 0.5, examples=5)

    assert re.findall(r"^epoch  1/10  (.*?)  loss ([\d.]+)", stream.getvalue(), re.MULTILINE) == [
        ("iteration 2/5", "0.5000"),
        ("iteration 4/5", "0.2500"),
        ("5 iterations", "0.2000"),
    ]


def test_a_terminal_gets_the_lines_too_in_place_of_bars() -> None:
    assert isinstance(open_progress(Terminal(), log_every=2), LineProgress)
