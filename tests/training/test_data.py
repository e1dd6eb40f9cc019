from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from training.data import Dataset


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
