from __future__ import annotations

import warnings
from pathlib import Path

from tests.training.conftest import Silent
from training.learning.tensorboard import BoardProgress


def log(folder: Path, epochs: list[int], *, resume: bool = False) -> Silent:
    shown = Silent()
    with BoardProgress(shown, folder, resume=resume) as progress:
        for epoch in epochs:
            progress.start_epoch(epoch, 4, 10)
            progress.due()
            progress.show(9.0, 0.0, examples=1)
            progress.end_epoch(1 / epoch, 0.5 + epoch / 10, examples=100)
    return shown


def logged(folder: Path, tag: str) -> list[tuple[int, float]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(folder)).Reload()
        return [(event.step, round(event.value, 4)) for event in events.Scalars(tag)]


def test_each_epoch_is_logged_and_shown(tmp_path: Path) -> None:
    shown = log(tmp_path, [1, 2])

    assert logged(tmp_path, "train/loss") == [(1, 1.0), (2, 0.5)]
    assert logged(tmp_path, "train/accuracy") == [(1, 0.6), (2, 0.7)]
    assert all(speed > 0 for _, speed in logged(tmp_path, "train/examples_per_second"))
    assert shown.iterations == [1, 1]
    assert [numbers[2] for numbers in shown.shown] == [1, 100, 1, 100]


def test_a_resumed_run_continues_its_curve_where_the_checkpoint_was(tmp_path: Path) -> None:
    log(tmp_path, [1, 2, 3])

    log(tmp_path, [3, 4], resume=True)

    assert [step for step, _ in logged(tmp_path, "train/loss")] == [1, 2, 3, 4]


def test_the_same_run_from_its_beginning_replaces_what_it_logged(tmp_path: Path) -> None:
    log(tmp_path, [1, 2, 3])

    log(tmp_path, [1])

    assert [step for step, _ in logged(tmp_path, "train/loss")] == [1]


def test_nothing_is_written_when_there_is_nothing_to_train(tmp_path: Path) -> None:
    log(tmp_path / "run", [])

    assert not (tmp_path / "run").exists()
