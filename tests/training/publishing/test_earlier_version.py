from __future__ import annotations

import logging
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from service.contract.manifest import ImageInput, Provenance
from service.contract.registry import Registry
from tests.registries import publish
from training.cli.command_line import main
from training.data.dataset import Dataset
from training.errors import OptionError
from training.hyper_parameters import HyperParameters
from training.networks.digit_net import DigitNet
from training.networks.preprocessing import Preprocessing
from training.networks.residual_net import ResidualNet
from training.networks.tutorials import NeuralNet, SimpleNet, Xigua
from training.networks.whitened_net import WhitenedNet
from training.publishing.abstention import learn
from training.publishing.earlier_version import EarlierVersion, read
from training.publishing.export import Exported, export, features_of, layers_of
from training.publishing.sharpening import Sharpening
from training.recipes import find

CPU = torch.device("cpu")
COLOUR = ImageInput(shape=(3, 32, 32), colour="rgb")
GREY = ImageInput(shape=(1, 28, 28), colour="grey")
HYPER = HyperParameters(epochs=1, batch_size=8, optimiser="sgd", lr=0.01)


def images(spec: ImageInput, n: int = 64) -> torch.Tensor:
    return torch.randint(0, 256, (n, *spec.shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def used(network: nn.Module, spec: ImageInput) -> nn.Module:
    """`network` as after some training: no bias, scale or average is what it began with."""
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0  # its averages are those of the last batch
        network.train()(Preprocessing()(images(spec)))
    return network.eval()


def version_of(network: nn.Module, spec: ImageInput, root: Path, *, mean: tuple[float, ...] = ()) -> EarlierVersion:
    artifact = export(Exported(Preprocessing(mean, tuple(0.25 for _ in mean)), network))
    with torch.no_grad():
        logits = network.eval()(Preprocessing()(images(spec, 2)))
    logits = _two(logits)
    classes = tuple("0123456789"[: logits.shape[1]])
    manifest = publish(root, "net", spec=spec, artifact=artifact, logits=logits.tolist(), classes=classes)
    return EarlierVersion(manifest, artifact)


def _two(logits: torch.Tensor) -> torch.Tensor:
    return logits if logits.shape[1] > 1 else torch.cat([torch.zeros_like(logits), logits], 1)


@pytest.mark.parametrize(
    ("make", "spec"),
    [
        (lambda: WhitenedNet(widths=(32, 32, 32)), COLOUR),
        (lambda: ResidualNet(widths=(8, 8, 16)), COLOUR),
        (Xigua, COLOUR),
        (lambda: DigitNet(widths=(4, 8, 8)), GREY),
        (NeuralNet, GREY),
        (lambda: nn.Sequential(nn.Flatten(), SimpleNet(784, 10, 1)), GREY),
    ],
    ids=["WhitenedNet", "ResidualNet", "Xigua", "DigitNet", "NeuralNet", "one logit"],
)
def test_a_network_comes_back_out_of_its_artifact(make: type[nn.Module], spec: ImageInput, tmp_path: Path) -> None:
    before = used(make(), spec)
    version = version_of(before, spec, tmp_path)
    torch.manual_seed(2)
    network = make()

    version.put_into(network, Preprocessing(), images(spec))

    inputs = Preprocessing()(images(spec, 16))
    with torch.no_grad():
        assert torch.allclose(network.eval()(inputs), before(inputs), atol=1e-4)


@pytest.mark.parametrize(
    ("make", "spec"),
    [(lambda: ResidualNet(widths=(8, 8, 16)), COLOUR), (lambda: DigitNet(widths=(4, 8, 8)), GREY)],
    ids=["ResidualNet", "DigitNet"],
)
def test_in_training_its_batch_norms_compute_what_was_served(
    make: type[nn.Module], spec: ImageInput, tmp_path: Path
) -> None:
    before = used(make(), spec)
    network = make()

    version_of(before, spec, tmp_path).put_into(network, Preprocessing(), images(spec))

    inputs = Preprocessing()(images(spec))  # what the averages were measured on
    with torch.no_grad():
        assert torch.allclose(network.train()(inputs), before(inputs), atol=0.05)


def test_it_comes_back_without_score_and_sharpening(tmp_path: Path) -> None:
    spec = GREY
    before = used(DigitNet(widths=(4, 8, 8)), spec)
    artifact = export(Exported(Preprocessing(), before))
    data = Dataset("d", "train", images(spec), torch.arange(64) % 10, tuple("0123456789"))
    sharpened = learn(
        artifact, data, data, ways=1, temperature=1.0, sharpening=Sharpening(0.5, -0.2, 0.1, 4.0), device=CPU
    ).artifact
    manifest = publish(tmp_path, "net", spec=spec, artifact=artifact)
    network = DigitNet(widths=(4, 8, 8))

    EarlierVersion(manifest, sharpened).put_into(network, Preprocessing(), data.inputs)

    with torch.no_grad():
        given = network.eval()(Preprocessing()(data.inputs))
    assert torch.allclose(given, features_of(artifact, data.inputs, CPU).logits, atol=1e-4)


def test_it_normalises_as_it_was_trained_to(tmp_path: Path) -> None:
    version = version_of(used(Xigua(), COLOUR), COLOUR, tmp_path, mean=(0.5, 0.25, 0.1))

    mean, deviation = version.normalisation

    assert mean == pytest.approx((0.5, 0.25, 0.1))
    assert deviation == pytest.approx((0.25, 0.25, 0.25))
    plain = version_of(used(Xigua(), COLOUR), COLOUR, tmp_path)
    assert [*plain.normalisation[0], *plain.normalisation[1]] == pytest.approx([0.0, 1.0])


def test_another_network_is_refused_by_its_first_layer_that_differs(tmp_path: Path) -> None:
    version = version_of(used(DigitNet(widths=(4, 8, 8)), GREY), GREY, tmp_path)

    with pytest.raises(
        OptionError, match=r"recipe's network\. Given: net-1-\w{8} \(a layer of \[4, 1, 5, 5\] in place of \["
    ):
        version.put_into(DigitNet(widths=(8, 8, 8)), Preprocessing(), images(GREY))
    with pytest.raises(OptionError, match=r"\(a conv2d in place of a linear\)"):
        version.put_into(NeuralNet(), Preprocessing(), images(GREY))


def test_weights_that_fit_but_compute_something_else_are_refused(tmp_path: Path) -> None:
    version = version_of(used(NeuralNet(), GREY), GREY, tmp_path)
    other = NeuralNet()
    for place, module in enumerate(other.layers):
        if isinstance(module, nn.Sigmoid):
            other.layers[place] = nn.ReLU()

    with pytest.raises(OptionError, match="logits that differ by up to"):
        version.put_into(other, Preprocessing(), images(GREY))


def test_classes_inputs_and_what_was_held_out_must_be_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = Dataset("d", "train", images(GREY), torch.arange(64) % 10, tuple("0123456789"))
    origin = Provenance(
        recipe="mnist",
        hyper_parameters={"held_out": 0.1},
        dataset="d/train",
        dataset_digest=data.digest,
        seed=0,
        commit="0",
        torch_version="2",
        device="cpu",
        seconds=1.0,
    )
    manifest = publish(tmp_path, "net", spec=GREY).model_copy(update={"provenance": origin})
    version = EarlierVersion(manifest, b"")

    version.expect(data, HYPER)
    version.expect(data, HYPER.override({"held_out": 0.1}))
    with pytest.raises(OptionError, match=r"held_out must be 0\.1, as net-1-\w{8} held out.*Given: 0\.2"):
        version.expect(data, HYPER.override({"held_out": 0.2}))
    with pytest.raises(OptionError, match=r"with the classes a, b\. Given: 0, 1, 2"):
        version.expect(replace(data, classes=("a", "b"), labels=data.labels % 2), HYPER)
    with pytest.raises(OptionError, match=r"for image inputs of \[3, 32, 32\]\. Given: image inputs of \[1, 28, 28\]"):
        version.expect(replace(data, inputs=images(COLOUR)), HYPER)
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        version.expect(replace(data, inputs=data.inputs + 1), HYPER)
    assert "may have been trained on examples that this run holds out or tests on" in caplog.text


@pytest.mark.parametrize(
    ("place", "error"),
    [
        ("{}/net/2", r"must be a version that can be read\. Given: .*net.*2"),
        ("{}/nothing/1", r"must be a version that can be read\. Given: .*nothing"),
        ("{}/net", r"must be REGISTRY/MODEL/VERSION, such as models/mnist/6\. Given: .*net"),
        ("{}/net/production", "must be REGISTRY/MODEL/VERSION"),
        ("1", "must be REGISTRY/MODEL/VERSION"),
        ("gopher://a/b/1", "fsspec"),
    ],
)
def test_a_place_without_a_version_is_refused(place: str, error: str, tmp_path: Path) -> None:
    publish(tmp_path, "net", spec=GREY)

    with pytest.raises(OptionError, match=error):
        read(place.format(tmp_path))


def test_a_damaged_version_is_refused(tmp_path: Path) -> None:
    publish(tmp_path, "net", spec=GREY)
    (tmp_path / "net" / "1" / "model.pt").write_bytes(b"damaged")

    with pytest.raises(OptionError, match=r"must be a version that can be read\. Given: "):
        read(f"{tmp_path}/net/1")


def test_a_run_goes_on_from_a_version_in_smaller_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], plain_pictures: None
) -> None:
    del plain_pictures
    monkeypatch.chdir(tmp_path)
    assert main(["train", "net", "--data", "digits", "--epochs", "20", "--publish"]) == 0
    before = Registry("my-models").manifest("net-digits", 1)

    assert main(["train", "net", "--data", "digits", "--pretrained", "my-models/net-digits/1", "--publish"]) == 0

    registry = Registry("my-models")
    manifest = registry.manifest("net-digits", 2)
    hyper = manifest.provenance.hyper_parameters
    card = registry.file("net-digits", 2, "card.md").decode()
    recipe = find("net").hyper
    name = f"net-digits-1-{before.artifact.sha256[:8]}"
    assert hyper["pretrained"] == name
    assert (hyper["epochs"], hyper["lr"]) == (max(1, recipe.epochs // 4), recipe.lr / 4)
    assert manifest.metrics[0].value >= before.metrics[0].value - 0.02
    assert f"784-256-10, ReLU, from the network of {name}" in card
    assert re.search(r"train net --data digits --pretrained REGISTRY/net-digits/1 --publish", card)
    assert "--pretrained" not in capsys.readouterr().err


def test_a_run_goes_on_with_the_activation_of_the_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain_pictures: None
) -> None:
    del plain_pictures
    monkeypatch.chdir(tmp_path)
    first = ["train", "net", "--data", "digits", "--activation", "tanh", "--epochs", "1", "--publish", "--force"]
    assert main(first) == 0

    on = ["train", "net", "--data", "digits", "--pretrained", "my-models/net-digits/1", "--publish", "--force"]
    assert main(on) == 0

    registry = Registry("my-models")
    assert registry.manifest("net-digits", 2).provenance.hyper_parameters["activation"] == "tanh"
    assert "each activation replaced by tanh" in registry.file("net-digits", 2, "card.md").decode()


def test_a_run_that_goes_on_keeps_a_share_of_the_version_s_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain_pictures: None
) -> None:
    del plain_pictures
    monkeypatch.chdir(tmp_path)
    assert main(["train", "net", "--data", "digits", "--epochs", "2", "--publish"]) == 0
    on = ["train", "net", "--data", "digits", "--pretrained", "my-models/net-digits/1", "--epochs", "1", "--publish"]

    assert main([*on, "--force"]) == main([*on, "--force", "--start-share", "0.75"]) == 0

    registry = Registry("my-models")
    start, end, both = (weights_of(registry, version) for version in (1, 2, 3))
    assert not torch.allclose(start, end, atol=1e-3)
    assert torch.allclose(both, 0.75 * start + 0.25 * end, atol=1e-6)
    assert registry.manifest("net-digits", 3).provenance.hyper_parameters["start_share"] == 0.75
    assert "--start-share 0.75" in registry.file("net-digits", 3, "card.md").decode()


def weights_of(registry: Registry, version: int) -> torch.Tensor:
    """The weights of the last layer of a version of net-digits."""
    weight = layers_of(registry.artifact(registry.manifest("net-digits", version)))[-1].tensors[0]
    assert weight is not None
    return weight
