from __future__ import annotations

import pytest
import torch
from torch import Tensor

from training.networks.digit_net import DigitNet
from training.networks.preprocessing import Preprocessing
from training.publishing import outliers
from training.publishing.calibrate import calibration, fit_temperature
from training.publishing.evaluate import logits_of
from training.publishing.export import Exported, export, features_of, load, load_columns, with_scores
from training.publishing.sharpening import Sharpening, fit

CPU = torch.device("cpu")
BENT = Sharpening(0.4, -0.3, 0.1, widest=5.0)


def drawn(sharpening: Sharpening | None, n: int = 6_000, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits whose labels are drawn with the softmax of `sharpening` of them."""
    generator = torch.Generator().manual_seed(seed)
    logits = 1.5 * torch.randn(n, 10, generator=generator)
    right = logits if sharpening is None else sharpening(logits)
    return logits, torch.multinomial(right.softmax(1), 1, generator=generator).flatten()


def test_probabilities_that_a_temperature_corrects_get_no_more() -> None:
    logits, labels = drawn(None)

    temperature, sharpening = fit(2 * logits, labels)

    assert (temperature, sharpening) == (fit_temperature(2 * logits, labels), None)


def test_what_no_temperature_corrects_is_corrected_for_other_examples_too() -> None:
    temperature, sharpening = fit(*drawn(BENT))

    logits, labels = drawn(BENT, seed=1)
    by_temperature = calibration(logits, labels, temperature=fit_temperature(logits, labels))
    assert (temperature, sharpening is not None) == (1.0, True)
    assert sharpening is not None
    corrected = calibration(sharpening(logits), labels, temperature=1.0)
    assert by_temperature.ece > by_temperature.ece_bound
    assert corrected.ece < corrected.ece_bound
    assert corrected.nll < by_temperature.nll


def test_it_is_enough_that_one_of_the_ways_is_wrong() -> None:
    (plain, labels), (other, others) = drawn(None), drawn(Sharpening(-0.9, 0.0, 0.0, 9.0), seed=1)

    _, sharpening = fit(torch.cat([plain, other]), torch.cat([labels, others]), ways=2)

    assert sharpening is not None


def test_few_examples_show_no_more_than_a_temperature() -> None:
    logits, labels = drawn(BENT, 900)

    assert fit(logits, labels) == (fit_temperature(logits, labels), None)


def test_the_order_of_classes_stays_and_margins_beyond_the_widest_count_as_that() -> None:
    logits, _ = drawn(None, 200)

    sharpened = BENT(logits)

    assert torch.equal(sharpened.argsort(1), logits.argsort(1))
    far = torch.tensor([[9.0, 0.0], [90.0, 0.0]])
    assert torch.allclose(BENT(far)[1] / 10, BENT(far)[0])


@pytest.mark.parametrize("sharpening", [None, BENT], ids=["plain", "sharpened"])
def test_an_artifact_sharpens_its_logits_once_and_scores_those_of_the_network(sharpening: Sharpening | None) -> None:
    torch.manual_seed(0)
    plain = export(Exported(Preprocessing(), DigitNet(widths=(4, 6, 8))))
    inputs = torch.randint(0, 256, (40, 1, 28, 28), dtype=torch.uint8)
    features = features_of(plain, inputs, CPU)
    score = outliers.fit(features, features)

    once = with_scores(plain, score, sharpening)
    twice = with_scores(once, score, sharpening)

    expected = logits_of(load(plain, CPU), inputs)
    scores = [logits_of(load_columns(each, CPU), inputs)[:, -1] for each in (with_scores(plain, score), once, twice)]
    expected = expected if sharpening is None else sharpening(expected)
    for artifact in (once, twice):
        assert torch.allclose(logits_of(load(artifact, CPU), inputs), expected, atol=1e-5)
        assert torch.equal(features_of(artifact, inputs, CPU).logits, features.logits)
    assert torch.equal(scores[0], scores[1])
    assert torch.equal(scores[0], scores[2])


def test_where_every_sharpening_ends_in_no_number_a_temperature_is_all() -> None:
    wrong = 50 * torch.nn.functional.one_hot(torch.arange(1_000) % 1_000, 1_000).float()

    temperature, sharpening = fit(wrong, (torch.arange(1_000) + 1) % 1_000)

    assert (temperature, sharpening) == (10.0, None)
