"""Evidence that an artifact computed in another form is as good as it is in the published one.

Two rules. A form in full precision must give every input of the test split the class that the published form gives. One
in half precision rounds, so that a few inputs that lie between two classes change sides: it must give 99.9 % of them
the published class, and lose at most 0.05 points of accuracy.

The test split may be used for this although it also measures the published model: it shows that two computations of one
model are equal, and selects no model. Of the forms that pass, the service takes the fastest on its machine, and the
metrics in the manifest remain those of the published form.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from service.contract.manifest import FormEvidence
from service.contract.variants import FORM_NAMES, HALF, FormName
from training.data.dataset import Dataset
from training.publishing.abstention import Abstention
from training.publishing.evaluate import logits_of
from training.publishing.export import load_columns

LEAST_AGREEMENT = 0.999
LARGEST_LOSS = 0.0005
"""The largest loss of accuracy, as a share: 0.05 points."""

_MUCH_SLOWER = 2.0
_SETTING_UP_SECONDS = 1.0  # of a form, in its first calls
_PART = 256


class Equivalence(NamedTuple):
    """The forms of an artifact that may serve, and the evidence."""

    forms: tuple[FormName, ...]  # those that may serve
    half_precision: tuple[FormEvidence, ...]  # of each that was measured, whether it passed or not


UNTESTED = Equivalence((), ())


def equivalence(known: Abstention, device: torch.device, test: Dataset) -> Equivalence:
    """Compare every form of an artifact with the published one, on all of `test`.

    How well a form in half precision agrees about outliers is recorded and decides nothing: an input that lies near
    the threshold is as good an outlier as none.

    A form that is far slower on `device` than the published one is given up, because it would serve nowhere. Not so
    float16: it serves on GPUs only, and a CPU without instructions for it says nothing about those. The evidence holds
    there too, because a CPU under torch.autocast rounds as a GPU does: inputs and weights to half precision, their
    products summed in float32, the sum once more. A convolution gave exactly that number in 99.85 % of cases, a linear
    layer in all (torch 2.14.1; tests/training/publishing/test_equivalence.py).
    """
    artifact, threshold = known.artifact, known.outliers.threshold if known.outliers else None
    started = time.process_time()
    expected = _found(load_columns(artifact, device), test.inputs, threshold)
    patience = _SETTING_UP_SECONDS + _MUCH_SLOWER * (time.process_time() - started)
    forms: list[FormName] = []
    half_precision: list[FormEvidence] = []
    for name in FORM_NAMES:
        until = time.process_time() + (float("inf") if name == "float16" else patience)
        parts = _parts(load_columns(artifact, device, name), test.inputs, threshold, until)
        if name in HALF:
            given = list(parts)
            if sum(map(len, given)) == len(test):
                evidence = _evidence(name, test, given=torch.cat(given), expected=expected, flags=threshold is not None)
                half_precision.append(evidence)
                forms += [name] if suffices(evidence) else []
        elif _all_equal(parts, expected):
            forms.append(name)
    return Equivalence(tuple(forms), tuple(half_precision))


def suffices(evidence: FormEvidence) -> bool:
    """Return whether a form in half precision may serve."""
    return evidence.agreement >= LEAST_AGREEMENT and evidence.accuracy_difference >= -LARGEST_LOSS


def _evidence(name: FormName, test: Dataset, *, given: Tensor, expected: Tensor, flags: bool) -> FormEvidence:
    labels = test.labels.to(given.device)
    n = len(test)
    right = int((given[:, 0] == labels).sum()) - int((expected[:, 0] == labels).sum())
    return FormEvidence(
        form=name,
        agreement=int((given[:, 0] == expected[:, 0]).sum()) / n,
        accuracy_difference=right / n,
        outlier_agreement=int((given[:, 1] == expected[:, 1]).sum()) / n if flags else None,
        data=test.title,
        n=n,
    )


def _all_equal(parts: Iterator[Tensor], expected: Tensor) -> bool:
    """Return whether the classes in `parts` equal those `expected`; stop at the first part that differs."""
    compared = 0
    for part in parts:
        if not torch.equal(part[:, 0], expected[compared : compared + len(part), 0]):
            return False
        compared += len(part)
    return compared == len(expected)


def _parts(classifier: nn.Module, inputs: Tensor, threshold: float | None, until: float) -> Iterator[Tensor]:
    """Yield what is found in parts of `inputs`, ending early once this process has computed until `until`."""
    for part in torch.split(inputs, _PART):
        if time.process_time() > until:
            return
        yield _found(classifier, part, threshold)


def _found(classifier: nn.Module, inputs: Tensor, threshold: float | None) -> Tensor:
    """Return class and whether it is an outlier, int64 [N, 2]; class -1 where a logit is not finite, as float16's."""
    columns = logits_of(classifier, inputs)
    logits = columns if threshold is None else columns[:, :-1]
    classes = torch.where(logits.isfinite().all(1), logits.argmax(1), -1)
    flags = torch.zeros_like(classes) if threshold is None else (~(columns[:, -1] <= threshold)).long()
    return torch.stack([classes, flags], 1)
