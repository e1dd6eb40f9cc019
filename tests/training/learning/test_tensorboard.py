from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.conftest import Silent
from training.data.dataset import Dataset
from training.learning.progress import Epoch
from training.learning.tensorboard import BoardProgress, Details, log_measurements
from training.learning.validation import Validation
from training.networks.digit_net import DigitNet
from training.networks.preprocessing import Preprocessing


def log(folder: Path, epochs: list[int], *, resume: bool = False, details: Details | None = None) -> Silent:
    shown = Silent()
    with BoardProgress(shown, folder, resume=resume, details=details) as progress:
        for epoch in epochs:
            progress.start_epoch(epoch, 4, 10)
            progress.due()
            progress.show(9.0, 0.0, examples=1)
            validation, rates = Validation(2 / epoch, epoch / 10), {"lr": 1 / epoch, "filter_lr": 0.5}
            progress.end_epoch(Epoch(1 / epoch, 0.5 + epoch / 10, 100, validation, rates))
    return shown


def read(folder: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        return EventAccumulator(str(folder), size_guidance={"histograms": 0}).Reload()  # 0: keep all


def logged(folder: Path, tag: str) -> list[tuple[int, float]]:
    return [(event.step, round(event.value, 4)) for event in read(folder).Scalars(tag)]


def test_each_epoch_is_logged_and_shown(tmp_path: Path) -> None:
    shown = log(tmp_path, [1, 2])

    assert logged(tmp_path, "train/loss") == [(1, 1.0), (2, 0.5)]
    assert logged(tmp_path, "train/accuracy") == [(1, 0.6), (2, 0.7)]
    assert logged(tmp_path, "validation/loss") == [(1, 2.0), (2, 1.0)]
    assert logged(tmp_path, "validation/accuracy") == [(1, 0.1), (2, 0.2)]
    assert logged(tmp_path, "train/lr") == [(1, 1.0), (2, 0.5)]
    assert logged(tmp_path, "train/filter_lr") == [(1, 0.5), (2, 0.5)]
    assert all(speed > 0 for _, speed in logged(tmp_path, "train/examples_per_second"))
    assert shown.iterations == [1, 1]
    assert [numbers[2] for numbers in shown.shown] == [1, 100, 1, 100]


def test_what_is_measured_at_the_end_joins_the_curves(tmp_path: Path) -> None:
    log(tmp_path, [1, 2])

    log_measurements(tmp_path, {"test/accuracy": 0.75}, epoch=2)

    assert logged(tmp_path, "test/accuracy") == [(2, 0.75)]
    assert len(logged(tmp_path, "train/loss")) == 2


@pytest.mark.parametrize("full_from", [0, 1, 2])
def test_a_full_disk_costs_curves_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, full_from: int
) -> None:
    from torch.utils.tensorboard import SummaryWriter

    opened = iter(range(99))

    def until_full(act: Any) -> Any:
        def acted(writer: SummaryWriter) -> Any:
            if next(opened) >= full_from:
                raise OSError(28, "No space left on device")
            return act(writer)

        return acted

    monkeypatch.setattr(SummaryWriter, "_get_file_writer", until_full(SummaryWriter._get_file_writer))
    monkeypatch.setattr(SummaryWriter, "flush", until_full(SummaryWriter.flush))

    shown = log(tmp_path, [1, 2, 3])
    log_measurements(tmp_path, {"test/accuracy": 0.75}, epoch=3)

    assert len(shown.shown) == 6
    assert "TensorBoard will not show all of this run" in caplog.text
    assert "No space left on device" in caplog.text


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


def test_images_graph_and_histograms_are_logged_when_asked_for_and_change_nothing(
    tmp_path: Path, digits: Dataset
) -> None:
    network = DigitNet(widths=(4, 8, 8))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}

    log(tmp_path, [1, 2], details=Details(Preprocessing(), network, digits))

    events = read(tmp_path)
    assert [image.step for image in events.Images("train/images")] == [0]
    assert b"head" in events.Graph().SerializeToString()
    assert [histogram.step for histogram in events.Histograms("weights/head.weight")] == [1, 2]
    assert events.Histograms("weights/head.bias")[0].histogram_value.num == 10
    assert network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_feature_vectors_are_no_images(tmp_path: Path) -> None:
    data = Dataset("points", "train", torch.ones(3, 2), torch.tensor([0, 1, 0]), ("a", "b"))

    log(tmp_path, [1], details=Details(Preprocessing(images=False), torch.nn.Linear(2, 2), data))

    tags = read(tmp_path).Tags()
    assert tags["graph"]
    assert not tags["images"]


def test_neither_images_nor_graph_nor_histograms_are_logged_by_default(tmp_path: Path) -> None:
    log(tmp_path, [1])

    tags = read(tmp_path).Tags()
    assert not tags["images"]
    assert not tags["graph"]
    assert not tags["histograms"]
