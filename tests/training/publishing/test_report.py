from __future__ import annotations

import io
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from service.contract.manifest import COVERAGE_STEPS, FormEvidence, ModelManifest, PredictionSets
from tests.registries import publish
from training.adaptation import adapt
from training.cli.command_line import _parser
from training.cli.common import hyper_given
from training.data.augmentation import Jpeg
from training.data.dataset import Dataset
from training.learning.trainer import EpochResult
from training.publishing import plots
from training.publishing.evaluate import Evaluation, evaluate
from training.publishing.latency import latencies
from training.publishing.report import Report, command
from training.publishing.robustness import Robustness
from training.recipes import find

HISTORY = [EpochResult(1, 0.5, 0.8, 1.0), EpochResult(2, 0.25, 0.9, 1.0)]


class BrightIsB(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        mean = images.flatten(1).float().mean(1)
        return torch.stack([100 - mean, mean - 100], dim=1) / 50


def grey_squares() -> Dataset:
    """Eight images, brighter and brighter, of which two have the wrong label."""
    brightness = torch.tensor([0, 20, 90, 99, 110, 140, 220, 255], dtype=torch.uint8)
    labels = torch.tensor([0, 0, 1, 0, 1, 1, 0, 1])
    return Dataset("squares", "test", brightness.view(8, 1, 1, 1).repeat(1, 1, 4, 4), labels, ("a|b", "b"))


def measured() -> Evaluation:
    return evaluate(BrightIsB(), grey_squares(), temperature=2.0)


def report() -> Report:
    recipe = find("neural_net")
    return Report(
        recipe=recipe,
        command=command(recipe, recipe.hyper.override({"seed": 3}), None),
        evaluations=[measured(), replace(measured(), data="squares/held-out")],
        test=grey_squares(),
        history=HISTORY,
        latencies={1: 0.5, 64: 3.2},
    )


@pytest.fixture
def manifest(tmp_path: Path) -> ModelManifest:
    return publish(tmp_path, temperature=2.0, forced="it was bad")


def size_of(png: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(png)) as image:
        image.verify()
        return image.size


def test_mistakes_are_ordered_by_how_sure_the_classifier_was_of_them() -> None:
    evaluation = measured()

    assert evaluation.mistakes == (6, 2)
    assert evaluation.confidences[6] == pytest.approx(1 / (1 + torch.tensor(-2 * 120 / 50 / 2).exp().item()))


def test_the_card_tells_data_accuracy_calibration_size_speed_and_how_to_make_it_again(manifest: ModelManifest) -> None:
    text = report().files(manifest)["card.md"].decode()

    for expected in (
        "# rows, version 1",
        "**Published by force**, although it was bad.",
        "784-128-256-10, sigmoid",
        manifest.provenance.dataset_digest,
        "| squares/test | 8 | 75.00% |",
        "| squares/held-out | 8 | 75.00% |",
        "| the last epoch of training, as it went |  | 90.00% | 0.2500 |",
        r"| a\|b | 4 | 75.00% | 75.00% |",
        "softmax(logits / 2)",
        f"{manifest.artifact.size_bytes:,} bytes",
        "| 64 | 3.20 | 0.050 |",
        "python -m training train neural_net --seed 3 --publish",
        "![Worst mistakes](worst_mistakes.png)",
    ):
        assert expected in text
    rows = [line for line in text.splitlines() if line.startswith("| squares/test |")]
    assert [row.split(" | ")[1] for row in rows] == ["8", "1", "2"]  # accuracy, then before and after the temperature


def test_every_calibration_error_on_the_card_stands_beside_its_bound(manifest: ModelManifest) -> None:
    text = report().files(manifest)["card.md"].decode()
    calibrated = measured().calibrated

    assert "| NLL | Brier | ECE | bound |" in text
    assert f"| {calibrated.ece:.2%} | {calibrated.ece_bound:.2%} |" in text


def test_the_card_tells_the_accuracy_on_corrupted_copies_the_worst_kind_first(manifest: ModelManifest) -> None:
    kinds = {"snow": (0.9, 0.8, 0.7, 0.6, 0.5), "fog": (0.5, 0.4, 0.3, 0.2, 0.1)}
    robust = [Robustness("squares/test", 8, kinds), Robustness("squares/held-out", 8, {"snow": (1.0,) * 5})]

    text = replace(report(), robustness=robust).files(manifest)["card.md"].decode()

    assert "| squares/test | 8 | 50.00% | fog, 30.00% |" in text
    assert "| squares/held-out | 8 | 100.00% | snow, 100.00% |" in text
    assert text.index("| fog | 30.0% | 50.0% | 40.0% | 30.0% | 20.0% | 10.0% |") < text.index("| snow | 70.0% |")
    assert "Corrupted copies" not in report().files(manifest)["card.md"].decode()


def test_the_card_tells_on_what_the_temperature_was_fitted(manifest: ModelManifest) -> None:
    provenance = manifest.provenance.model_copy(update={"hyper_parameters": {"held_out": 0.1}})
    held_out = manifest.model_copy(update={"provenance": provenance})
    compressing = replace(report(), recipe=replace(report().recipe, sent=Jpeg(0.5)))

    cards = [each.files(held_out)["card.md"].decode() for each in (report(), compressing)]

    assert "that were held out, never on test data." in cards[0]
    assert "and once more after Jpeg(share=0.5, lowest=60, highest=95), never on test data." in cards[1]


@pytest.mark.parametrize(
    ("data", "more"), [("cats and dogs/held-out", ""), ("cifar10/held-out and holdout", "on holdout, which no run")]
)
def test_the_card_names_another_split_only_if_the_temperature_was_fitted_on_it_too(
    manifest: ModelManifest, data: str, more: str
) -> None:
    provenance = manifest.provenance.model_copy(update={"hyper_parameters": {"held_out": 0.1}})
    sets = PredictionSets(floors=(0.1,) * COVERAGE_STEPS, data=data, n=100)

    text = report().files(manifest.model_copy(update={"provenance": provenance, "sets": sets}))["card.md"].decode()

    assert ("which no run trains on" in text) == bool(more)
    assert more in text
    assert ("flatters" in text) == bool(more)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("new\nyork", "new york"),
        ("red\x1b[31m\u2028", "red [31m "),
        ("<script>", r"\<script>"),
        ("a|b\\", r"a\|b\\"),
        ("`rm` *x* ~~y~~", r"\`rm\` \*x\* \~\~y\~\~"),
        ("[l](http://x) &amp; R&D", r"[l\](http://x) \&amp; R&D"),
        ("_a_ b_c", r"\_a\_ b_c"),
    ],
)
def test_the_name_of_a_class_is_shown_as_it_is(name: str, shown: str, manifest: ModelManifest) -> None:
    evaluations = [replace(measured(), classes=(name, "b"))]
    named = manifest.model_copy(update={"classes": (name, "b")})

    text = replace(report(), evaluations=evaluations).files(named)["card.md"].decode()

    assert f"2 classes: {shown}, b." in text
    assert f"| {shown} | 4 |" in text


def test_the_command_names_the_precision_that_another_device_would_choose_otherwise() -> None:
    digits, photos = find("mnist"), find("cifar10")

    assert command(digits, digits.hyper, None) == "python -m training train mnist --publish"
    assert command(photos, photos.hyper, None).endswith("train cifar10 --precision float32 --publish")


def test_the_card_tells_which_forms_may_serve(manifest: ModelManifest) -> None:
    proved = manifest.model_copy(update={"forms": ("channels_last", "prepacked")})

    cards = [report().files(each)["card.md"].decode() for each in (manifest, proved)]

    assert "no other form of it was proved" in cards[0]
    assert "the same class: channels last, prepacked." in cards[1]


def test_the_card_tells_the_evidence_for_and_against_half_precision(manifest: ModelManifest) -> None:
    evidence = [
        FormEvidence(form=form, agreement=agreement, accuracy_difference=-0.0002, data="mnist/test", n=10_000)
        for form, agreement in (("bfloat16", 0.9985), ("float16", 0.9997))
    ]
    measured = manifest.model_copy(update={"forms": ("channels_last", "float16"), "half_precision": tuple(evidence)})

    card = report().files(measured)["card.md"].decode()

    assert "the same class: channels last." in card
    assert "| bfloat16 | mnist/test | 10,000 | 99.85% | -0.02 | no |" in card
    assert "| float16 | mnist/test | 10,000 | 99.97% | -0.02 | yes |" in card


def test_every_picture_that_the_card_shows_is_a_png_beside_it(manifest: ModelManifest) -> None:
    files = report().files(manifest)

    pictures = {name for name in files if name.endswith(".png")}
    assert pictures == {"learning_curve.png", "confusion_matrix.png", "worst_mistakes.png"}
    for name in pictures:
        assert f"]({name})" in files["card.md"].decode()
        assert min(size_of(files[name])) > 100


def test_features_have_no_grid_of_mistakes(manifest: ModelManifest) -> None:
    rows = Dataset("moons", "test", torch.zeros(8, 2), grey_squares().labels, ("a", "b"))

    files = replace(report(), test=rows).files(manifest)

    assert "worst_mistakes.png" not in files
    assert "worst_mistakes" not in files["card.md"].decode()


def test_a_classifier_without_a_mistake_and_one_of_many_classes_can_be_drawn() -> None:
    faultless = replace(measured(), mistakes=())
    many = evaluate(
        nn.Sequential(nn.Flatten(), nn.LazyLinear(100)),
        Dataset("m", "test", torch.rand(4, 1, 2, 2), torch.arange(4), tuple(map(str, range(100)))),
    )

    assert size_of(plots.worst_mistakes(faultless, grey_squares()))[0] > 100
    assert min(size_of(plots.confusion_matrix(many))) > 500


def test_names_with_dollars_are_no_formulas() -> None:
    priced = replace(measured(), classes=("$", "$$"), data="100 % $x% $/test")

    drawn = [plots.confusion_matrix(priced), plots.worst_mistakes(priced, grey_squares())]
    drawn.append(plots.worst_mistakes(replace(priced, mistakes=()), grey_squares()))

    assert all(picture.startswith(b"\x89PNG") for picture in drawn)


def test_names_that_the_font_lacks_are_drawn_without_a_warning() -> None:
    assert plots.confusion_matrix(replace(measured(), classes=("猫", "\x1b"))).startswith(b"\x89PNG")


def test_colour_images_are_drawn() -> None:
    data = grey_squares()
    colour = replace(data, inputs=data.inputs.repeat(1, 3, 1, 1))

    assert min(size_of(plots.worst_mistakes(measured(), colour))) > 100


def test_the_command_names_all_that_differs_from_the_recipe_and_no_path_of_this_machine() -> None:
    recipe = find("neural_net")
    hyper = recipe.hyper.override({"shuffle": False, "betas": ["0.8", "0.9"], "lr": "0.02"})

    assert command(recipe, recipe.hyper, "mnist") == "python -m training train neural_net --publish"
    assert command(recipe, hyper, "fashion_mnist") == (
        "python -m training train neural_net --data fashion_mnist --lr 0.02 --betas 0.8 0.9 --no-shuffle --publish"
    )
    assert command(recipe, hyper, "folder:/home/me/photos").startswith(
        "python -m training train neural_net --data folder:PATH --epochs 10 --batch-size 64 --lr 0.02 "
    )
    assert " --data csv:PATH:species --epochs" in command(recipe, hyper, "csv:/home/me/flowers.csv:species")


@pytest.mark.parametrize("examples", [20, 144, 3000])
@pytest.mark.parametrize("recipe", ["simple_nn", "neural_net", "mnist", "cifar10", "cifar10_residual"])
def test_the_command_for_the_user_s_own_data_makes_the_same_run_again(recipe: str, examples: int) -> None:
    usual = find(recipe)
    data = Dataset("own", "train", torch.zeros(examples, 1), torch.arange(examples) % 2, ("a", "b"))
    chosen = {"epochs": usual.hyper.epochs, "batch_size": usual.hyper.batch_size}  # as the recipe has them
    hyper = adapt(usual.hyper.override(chosen), data, chosen=chosen)

    words = shlex.split(command(usual, hyper, "folder:own"))

    given = hyper_given(_parser().parse_args(words[3:]))
    assert adapt(usual.hyper.override(given), data, chosen=given) == hyper


def test_latency_is_measured_for_each_batch_size_on_batches_of_that_size() -> None:
    class Noted(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            sizes.append(len(inputs))
            return inputs

    sizes: list[int] = []

    measured = latencies(Noted(), torch.zeros(10, 2))

    assert list(measured) == sorted(set(sizes)) == [1, 8, 64, 256]
    assert all(milliseconds > 0 for milliseconds in measured.values())
