from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.training.conftest import Silent
from training.data.batches import batches
from training.data.dataset import Dataset
from training.errors import OptionError, TrainingError
from training.hyper_parameters import HyperParameters
from training.learning.trainer import EpochResult, train
from training.networks.preprocessing import Preprocessing
from training.networks.tutorials import NeuralNet


def fit(network: nn.Module, data: Dataset, hyper: HyperParameters) -> list[EpochResult]:
    return train(network, Preprocessing(images=data.images), data=data, hyper=hyper, progress=Silent())


def two_examples() -> Dataset:
    inputs = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    return Dataset("points", "train", inputs, torch.tensor([0, 1]), ("left", "right"))


def first_layer(network: NeuralNet) -> nn.Linear:
    layer = network.layers[1]
    assert isinstance(layer, nn.Linear)
    return layer


def weights_after(seed: int, digits: Dataset, quick: HyperParameters) -> Tensor:
    torch.manual_seed(0)
    network = NeuralNet()
    fit(network, digits, quick.override({"seed": seed}))
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


def test_loss_falls_and_accuracy_rises_from_epoch_to_epoch(digits: Dataset, quick: HyperParameters) -> None:
    torch.manual_seed(0)

    history = fit(NeuralNet(), digits, quick.override({"epochs": 4}))

    assert [result.epoch for result in history] == [1, 2, 3, 4]
    assert [result.loss for result in history] == sorted((result.loss for result in history), reverse=True)
    assert history[-1].accuracy > 0.9 > history[0].accuracy


def test_gradients_do_not_accumulate_from_one_step_to_the_next() -> None:
    torch.manual_seed(0)
    network, data = nn.Linear(2, 2), two_examples()
    by_hand = nn.Linear(2, 2)
    by_hand.load_state_dict(network.state_dict())
    for _ in range(3):  # three steps of plain gradient descent, each with a gradient of its own
        loss = nn.functional.cross_entropy(by_hand(data.inputs), data.labels)
        gradients = torch.autograd.grad(loss, list(by_hand.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(by_hand.parameters(), gradients, strict=True):
                parameter.sub_(0.5 * gradient)

    fit(network, data, HyperParameters(epochs=3, batch_size=2, optimiser="sgd", lr=0.5, shuffle=False))

    assert torch.allclose(network.weight, by_hand.weight, atol=1e-6)
    assert torch.allclose(network.bias, by_hand.bias, atol=1e-6)


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(digits: Dataset, quick: HyperParameters) -> None:
    first, again, other = (weights_after(seed, digits, quick) for seed in (1, 1, 2))

    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_looking_at_the_progress_does_not_change_the_result(digits: Dataset, quick: HyperParameters) -> None:
    weights = []
    for always_due in (False, True):
        torch.manual_seed(0)
        network = NeuralNet()
        progress = Silent(always_due=always_due)

        train(network, Preprocessing(), data=digits, hyper=quick, progress=progress)

        weights.append(first_layer(network).weight.detach())
    assert torch.equal(*weights)


def test_50_000_images_in_batches_of_256_are_196_iterations_and_the_last_one_is_partial() -> None:
    images = torch.zeros(50_000, 1, 1, 1, dtype=torch.uint8)
    data = Dataset("blank", "train", images, torch.zeros(50_000, dtype=torch.int64), ("a", "b"))
    hyper = HyperParameters(epochs=1, batch_size=256, optimiser="sgd", lr=0.01)
    progress = Silent()

    train(nn.Sequential(nn.Flatten(), nn.Linear(1, 2)), Preprocessing(), data=data, hyper=hyper, progress=progress)
    sizes = [len(labels) for _, labels in batches(data, hyper, 1)]

    assert progress.iterations == [196]
    assert hyper.iterations(50_000) == len(sizes) == 196
    assert sizes == [256] * 195 + [80]
    assert [len(labels) for _, labels in batches(data, hyper.override({"drop_last": True}), 1)] == [256] * 195


def test_a_limit_ends_every_epoch_after_so_many_batches(digits: Dataset, quick: HyperParameters) -> None:
    progress = Silent()
    hyper = quick.override({"limit": 3})

    train(NeuralNet(), Preprocessing(), data=digits, hyper=hyper, progress=progress)

    assert progress.iterations == [3, 3]
    assert [len(labels) for _, labels in batches(digits, hyper, 1)] == [64, 64, 64]
    assert hyper.override({"limit": 100}).iterations(len(digits)) == 23


def test_asgd_evaluates_the_averaged_weights(digits: Dataset) -> None:
    weights = {}
    for optimiser in ("asgd", "sgd"):
        torch.manual_seed(0)
        network = NeuralNet()
        fit(network, digits, HyperParameters(epochs=1, batch_size=64, optimiser=optimiser, lr=0.5))
        weights[optimiser] = network.state_dict()["layers.5.bias"].clone()

    assert not torch.allclose(weights["asgd"], weights["sgd"], atol=1e-3)


def test_the_numbers_shown_are_the_mean_over_the_examples_seen(digits: Dataset, quick: HyperParameters) -> None:
    progress = Silent(always_due=True)
    layer = nn.Linear(784, 10)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    uniform = nn.Sequential(nn.Flatten(), layer)

    train(uniform, Preprocessing(), data=digits, hyper=quick.override({"lr": 1e-12}), progress=progress)

    # Ten equal logits: the loss is ln 10.
    assert [loss for loss, _, _ in progress.shown] == pytest.approx([2.302585] * len(progress.shown))
    assert [examples for _, _, examples in progress.shown[:3]] == [64, 128, 192]
    assert progress.shown[-1][2] == len(digits)


def test_a_linear_schedule_ends_where_a_constant_one_overshoots(digits: Dataset, quick: HyperParameters) -> None:
    losses = {}
    for schedule in ("constant", "linear"):
        torch.manual_seed(0)
        losses[schedule] = fit(NeuralNet(), digits, quick.override({"epochs": 5, "lr": 0.1, "lr_schedule": schedule}))

    assert losses["linear"][-1].loss < losses["constant"][-1].loss


@pytest.mark.parametrize(
    ("optimiser", "option"),
    [
        ("sgd", {"momentum": 0.9}),
        ("sgd", {"weight_decay": 0.1}),
        ("sgd", {"lr": 0.02}),
        ("adam", {"betas": (0.5, 0.9)}),
        ("adam", {"eps": 0.1}),
        ("adam", {"amsgrad": True}),
        ("adam", {"weight_decay": 0.1}),
        ("adam", {"precision": "bfloat16"}),
        ("adam", {"batch_size": 32}),
        ("adam", {"drop_last": True}),
        ("adam", {"label_smoothing": 0.1}),
        ("adam", {"lr_schedule": "one_cycle"}),
        ("adam", {"limit": 5}),
        ("radam", {"betas": (0.5, 0.9)}),
        ("asgd", {"weight_decay": 0.1}),
    ],
    ids=str,
)
def test_each_hyper_parameter_changes_the_result(digits: Dataset, optimiser: str, option: dict[str, object]) -> None:
    plain = HyperParameters(epochs=2, batch_size=64, optimiser=optimiser, lr=0.01)
    results = []
    for hyper in (plain, plain.override(option)):
        torch.manual_seed(0)
        results.append(fit(NeuralNet(), digits, hyper)[-1].loss)

    assert results[0] != results[1]


def test_a_loss_that_is_not_finite_is_named_with_its_epoch_and_iteration(digits: Dataset) -> None:
    class NanFromTheThirtiethBatch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.calls = nn.Linear(784, 10), 0

        def forward(self, images: Tensor) -> Tensor:
            self.calls += 1
            logits: Tensor = self.layer(images.flatten(1))
            return logits * torch.nan if self.calls >= 30 else logits

    hyper = HyperParameters(epochs=3, batch_size=64, optimiser="sgd", lr=0.01)  # 23 iterations an epoch

    with pytest.raises(TrainingError, match=r"finite number\. Given: nan in epoch 2, iteration 7 of 23"):
        fit(NanFromTheThirtiethBatch(), digits, hyper)


def test_drop_last_that_leaves_no_batch_is_refused(digits: Dataset, quick: HyperParameters) -> None:
    with pytest.raises(OptionError, match=r"at most the 1,433 examples of digits/train\. Given: 2000"):
        fit(NeuralNet(), digits, quick.override({"batch_size": 2000, "drop_last": True}))


def test_one_raw_logit_learns_as_binary_cross_entropy_with_logits_does() -> None:
    torch.manual_seed(0)
    network, data = nn.Linear(2, 1), two_examples()
    loss = nn.BCEWithLogitsLoss()(network(data.inputs)[:, 0], data.labels.float())
    gradient = torch.autograd.grad(loss, network.weight)[0]
    before = network.weight.detach().clone()

    history = fit(network, data, HyperParameters(epochs=1, batch_size=2, optimiser="sgd", lr=0.5))

    assert history[0].loss == pytest.approx(loss.item())
    assert torch.allclose(network.weight, before - 0.5 * gradient, atol=1e-6)


def test_what_needs_no_gradient_is_left_as_it_is(digits: Dataset, quick: HyperParameters) -> None:
    network = NeuralNet()
    first_layer(network).weight.requires_grad_(False)
    before = first_layer(network).weight.clone()

    fit(network, digits, quick.override({"weight_decay": 0.1}))

    assert torch.equal(first_layer(network).weight, before)


def test_autograd_gives_the_gradient_of_the_mean_of_three_times_x_plus_two_squared() -> None:
    x = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)

    out = (3 * (x + 2) ** 2).mean()
    (gradient,) = torch.autograd.grad(out, x)

    assert out.item() == 50
    assert gradient.tolist() == [6, 8, 10]
