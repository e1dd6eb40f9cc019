from __future__ import annotations

from pathlib import Path

import pytest
import torch

from service.contract.manifest import ImageInput
from tests.registries import GREY, RGB
from tests.training.data.test_pictures import write_cifar10
from training.data import pictures
from training.data.cache import Cache
from training.data.dataset import Dataset
from training.publishing import foreign


@pytest.mark.parametrize("kind", foreign.KINDS)
@pytest.mark.parametrize("spec", [GREY, RGB], ids=["ink", "photo"])
def test_every_kind_becomes_inputs_that_differ_from_each_other_and_are_the_same_each_time(
    kind: str, spec: ImageInput
) -> None:
    inputs = foreign.inputs_of(kind, spec)

    assert (inputs.dtype, inputs.shape) == (torch.uint8, (foreign.PICTURES, *spec.shape))
    assert torch.equal(inputs, foreign.inputs_of(kind, spec))
    assert kind == "blank pages" or len(inputs.unique(dim=0)) == len(inputs)


def test_pictures_of_another_dataset_are_seen_as_a_client_would_send_them(digits: Dataset) -> None:
    (first, *_) = foreign.as_inputs(foreign.images_of(digits.inputs[:3]), RGB)

    assert first.shape == (3, 32, 32)
    assert torch.equal(first[0], first[1])


def test_the_pictures_of_another_dataset_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar10(tmp_path, zipped=True)
    cache = Cache(tmp_path / "cache")
    first = foreign.datasets_beside("mnist", GREY, tmp_path, cache)
    monkeypatch.delattr(pictures, "official")

    second = foreign.datasets_beside("mnist", GREY, tmp_path, cache)

    assert torch.equal(first["cifar10"], second["cifar10"])


def test_no_dataset_is_downloaded_to_be_compared_with(tmp_path: Path) -> None:
    assert foreign.datasets_beside("digits", GREY, tmp_path) == {}
