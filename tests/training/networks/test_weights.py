from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torchvision.models import ResNet18_Weights, resnet18

from service.model import torchscript
from training.errors import OptionError
from training.networks import weights
from training.networks.resnet import ResNet


def test_a_network_has_the_weights_of_a_file_but_for_its_last_layer_and_takes_grey_and_colour(tmp_path: Path) -> None:
    torch.manual_seed(0)
    original = resnet18(weights=None).eval()
    torch.save(original.state_dict(), tmp_path / "some.pth")

    read = weights.read(tmp_path / "some.pth")
    network = ResNet(3, read.tensors).eval()

    images = torch.rand(2, 3, 40, 48)
    with torch.no_grad():
        features = torch.nn.Sequential(*list(original.children())[:-1])(images).flatten(1)
        assert torch.allclose(network(images), network.body.fc(features), atol=1e-5)
        grey = images[:, :1]
        assert torch.equal(network(grey), network(grey.expand(-1, 3, -1, -1)))
        with torchscript.without_deprecations():
            assert torch.equal(torch.jit.script(network)(grey), network(grey))


def test_the_official_weights_are_those_that_torchvision_names() -> None:
    assert Path(ResNet18_Weights.IMAGENET1K_V1.url).stem == weights.OFFICIAL


@pytest.mark.parametrize("content", [{"layer": torch.zeros(1)}, [1, 2], "text"], ids=["another network", "list", "str"])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "other.pth")

    with pytest.raises(OptionError, match=r"state_dict of torchvision's ResNet-18\. Given: .*other\.pth"):
        weights.read(tmp_path / "other.pth")


def test_a_file_of_something_else_than_tensors_is_refused_without_advice_to_run_it(tmp_path: Path) -> None:
    (tmp_path / "other.pth").write_bytes(b"hello")

    with pytest.raises(OptionError, match=r"Given: .*other\.pth \(which holds something else than tensors\)$"):
        weights.read(tmp_path / "other.pth")
