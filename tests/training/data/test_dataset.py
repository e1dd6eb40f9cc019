from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from training.data.dataset import Dataset
from training.errors import OptionError


def test_the_digest_depends_on_inputs_labels_and_shape(digits_test: Dataset) -> None:
    inputs, labels = digits_test.inputs.clone(), digits_test.labels.clone()
    inputs[0, 0, 0, 0] ^= 1
    labels[0] ^= 1
    flat = digits_test.inputs.view(-1, 1, 14, 56)

    digests = {replace(digits_test, inputs=inputs).digest, replace(digits_test, labels=labels).digest}
    digests |= {replace(digits_test, inputs=flat).digest, digits_test.digest}

    assert len(digests) == 4
    assert replace(digits_test, inputs=digits_test.inputs.clone()).digest == digits_test.digest


def test_inputs_and_labels_must_be_as_many() -> None:
    with pytest.raises(ValueError, match=r"as many\. Given: 3 and 2"):
        Dataset("points", "test", torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64), ("a", "b"))


def test_held_out_is_the_same_share_of_every_class_and_never_part_of_the_rest(digits: Dataset) -> None:
    rest, held_out = digits.hold_out(0.1)

    assert (rest.title, held_out.title) == ("digits/train", "digits/held-out")
    assert len(rest) + len(held_out) == len(digits)
    for label in range(10):
        members = int((digits.labels == label).sum())
        assert int((held_out.labels == label).sum()) == members // 10
    apart = {bytes(image.flatten().tolist()) for image in rest.inputs}
    assert not apart & {bytes(image.flatten().tolist()) for image in held_out.inputs}


def test_a_share_that_holds_nothing_out_is_refused() -> None:
    data = Dataset("points", "train", torch.zeros(4, 2), torch.tensor([0, 0, 1, 1]), ("a", "b"))

    with pytest.raises(OptionError, match=r"held_out must be a share .* some class of 4 examples\. Given: 0\.4"):
        data.hold_out(0.4)


def test_what_never_varies_is_left_as_it_is() -> None:
    # The mean of many times 250 / 255 is rounded, and their deviation 1e-16.
    images = torch.full((999, 1, 28, 28), 250, dtype=torch.uint8)
    rows = torch.full((999, 1), 0.1)
    labels = torch.arange(999) % 2

    for inputs in (images, rows):
        assert Dataset("d", "train", inputs, labels, ("a", "b")).moments()[1] == [1.0]


def test_inputs_that_another_dataset_holds_too_are_counted() -> None:
    def of(*levels: int) -> Dataset:
        images = torch.tensor(levels, dtype=torch.uint8).view(-1, 1, 1, 1).repeat(1, 3, 2, 2)
        return Dataset("d", "train", images, torch.arange(len(levels)) % 2, ("a", "b"))

    assert of(1, 2, 2, 3).shared_with(of(2, 9, 2)) == 2
    assert of(1).shared_with(of(2)) == 0
