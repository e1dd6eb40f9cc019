from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from service.contract.manifest import ForeignEvidence
from service.model import torchscript
from training.data.dataset import Dataset
from training.networks.digit_net import DigitNet
from training.networks.preprocessing import Preprocessing
from training.networks.tutorials import NeuralNet
from training.publishing import abstention
from training.publishing.abstention import Abstention
from training.publishing.evaluate import logits_of
from training.publishing.export import Exported, export, load, load_columns
from training.publishing.publish import input_spec

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def artifact() -> bytes:
    torch.manual_seed(0)
    return export(Exported(Preprocessing(), DigitNet(widths=(4, 6, 8))))


@pytest.fixture(scope="module")
def known(artifact: bytes, digits: Dataset) -> Abstention:
    train, held_out = digits.hold_out(0.2)
    return abstention.learn(artifact, train, held_out, temperature=1.0, device=CPU)


def test_the_network_gives_the_logits_that_it_gave_and_a_score_beside_them(
    artifact: bytes, known: Abstention, digits_test: Dataset
) -> None:
    before = logits_of(load(artifact, CPU), digits_test.inputs)

    columns = logits_of(load_columns(known.artifact, CPU), digits_test.inputs)

    assert torch.equal(columns[:, :-1], before)
    assert torch.equal(logits_of(load(known.artifact, CPU), digits_test.inputs), before)
    assert columns[:, -1].isfinite().all()


def test_an_artifact_that_gives_scores_is_given_the_same_ones_again(
    known: Abstention, digits: Dataset, digits_test: Dataset
) -> None:
    train, held_out = digits.hold_out(0.2)

    again = abstention.learn(known.artifact, train, held_out, temperature=1.0, device=CPU)

    columns, twice = (logits_of(load_columns(each.artifact, CPU), digits_test.inputs) for each in (known, again))
    assert torch.equal(columns, twice)
    assert (again.outliers, again.sets) == (known.outliers, known.sets)
    assert abs(len(again.artifact) - len(known.artifact)) < 500


def test_an_artifact_returns_two_outputs(known: Abstention, digits_test: Dataset) -> None:
    with torchscript.without_deprecations():
        logits, scores = torch.jit.load(io.BytesIO(known.artifact))(digits_test.inputs[:3])

    assert (logits.shape, scores.shape) == ((3, 10), (3,))


def test_a_network_of_linear_layers_is_scored_too(digits: Dataset) -> None:
    train, held_out = digits.hold_out(0.2)
    artifact = export(Exported(Preprocessing(), NeuralNet()))

    known = abstention.learn(artifact, train, held_out, temperature=1.0, device=CPU)

    assert logits_of(load_columns(known.artifact, CPU), held_out.inputs).shape == (len(held_out), 11)


def test_two_in_a_hundred_of_a_test_split_are_outliers_and_sets_hold_its_truth(
    known: Abstention, digits_test: Dataset
) -> None:
    found = {m.name: m.value for m in abstention.metrics_of(known, digits_test, temperature=1.0, device=CPU)}

    assert found["outliers"] == pytest.approx(0.02, abs=0.03)
    assert found["coverage_95"] == pytest.approx(0.95, abs=0.06)
    assert found["set_size_95"] > 1  # the network is untrained


def test_foreign_pictures_are_told_apart_without_training_on_them(known: Abstention, digits_test: Dataset) -> None:
    compared = list(abstention.compare(known, digits_test, input_spec(digits_test), Path("nowhere"), CPU))

    assert [type(each) for each in compared] == [ForeignEvidence] * 5
    assert {each.kind: each.auroc for each in compared}["noise"] > 0.9
    assert all(each.data == "digits/test" for each in compared)


@pytest.mark.parametrize("held_out", [None, 10])
def test_a_run_that_held_out_too_little_publishes_no_score(
    held_out: int | None, artifact: bytes, digits: Dataset
) -> None:
    few = digits.subset(held_out) if held_out else None

    assert abstention.learn(artifact, digits, few, temperature=1.0, device=CPU) == Abstention(artifact)


def test_a_picture_of_one_colour_is_no_outlier_to_a_model_that_was_taught_such(
    artifact: bytes, known: Abstention, digits: Dataset
) -> None:
    train, held_out = digits.hold_out(0.2)
    blank = replace(train, inputs=torch.cat([train.inputs[:-20], torch.zeros_like(train.inputs[:20])]))

    taught = abstention.learn(artifact, blank, held_out, temperature=1.0, device=CPU)

    assert known.outliers is not None
    assert taught.outliers is not None
    assert (known.outliers.knows_blank, taught.outliers.knows_blank) == (False, True)
