"""The card of a version, in Markdown, for people who want to use or reproduce it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from service.contract.manifest import FormEvidence, ModelManifest
from service.contract.variants import FormName
from training.data.augmentation import Augmentation
from training.learning.trainer import EpochResult
from training.publishing.evaluate import Evaluation

_MAKING_IT_AGAIN = "## Making it again"


def card(
    manifest: ModelManifest,
    *,
    network: str,
    command: str,
    evaluations: Sequence[Evaluation],
    history: Sequence[EpochResult],
    latencies: Mapping[int, float],
    pictures: Mapping[str, str],
    sent: Augmentation | None = None,
) -> str:
    """Everything about `manifest`, its measurements and how to make it again; `pictures` are file names by title.

    `sent` is what was done to the held-out examples for the temperature to be fitted on them once more.
    """
    provenance = manifest.provenance
    test, last = evaluations[0], history[-1]
    temperature = f"{manifest.temperature:g}"
    parts = [
        _title(manifest),
        f"{network}. {len(manifest.classes)} classes: {', '.join(manifest.classes)}.",
        _published(manifest),
    ]
    if manifest.forced is not None:
        parts.append(f"**Published by force**, although {manifest.forced}.")
    parts += [
        "## Data",
        _table(
            ("trained on", "sha256", "input"),
            [(provenance.dataset, provenance.dataset_digest, f"{manifest.input.dtype} {list(manifest.input.shape)}")],
        ),
        "## Accuracy",
        _table(
            ("split", "n", "accuracy", "loss"),
            [
                *((e.data, f"{e.n:,}", f"{e.accuracy:.2%}", f"{e.loss:.4f}") for e in evaluations),
                ("the last epoch of training, as it went", "", f"{last.accuracy:.2%}", f"{last.loss:.4f}"),
            ],
        ),
        f"By class, on {test.data}:",
        _table(
            ("class", "n", "recall", "precision"),
            [(r.name, f"{r.n:,}", _percent(r.recall), _percent(r.precision)) for r in test.per_class],
        ),
        "## Calibration",
        f"Probabilities are softmax(logits / {temperature}). {_origin(provenance.hyper_parameters, sent)} "
        "ECE is the expected calibration error over 15 bins (Guo et al., 2017).",
        _table(
            ("split", "temperature", "NLL", "Brier", "ECE"),
            [
                (e.data, f"{c.temperature:g}", f"{c.nll:.4f}", f"{c.brier:.4f}", f"{c.ece:.2%}")
                for e in evaluations
                for c in ((e.uncalibrated, e.calibrated) if e.calibrated != e.uncalibrated else (e.uncalibrated,))
            ],
        ),
        "## Size and speed",
        f"`model.pt` has {manifest.artifact.size_bytes:,} bytes (sha256 `{manifest.artifact.sha256}`).",
        f"One call on {provenance.device}, median:",
        _table(
            ("batch", "milliseconds", "per input"),
            [(str(size), f"{ms:.2f}", f"{ms / size:.3f}") for size, ms in latencies.items()],
        ),
        _forms(manifest, test.data),
        _MAKING_IT_AGAIN,
        f"```sh\n{command}\n```",
        _table(
            ("recipe", "seed", "commit", "torch", "device", "seconds of training"),
            [
                (
                    provenance.recipe,
                    str(provenance.seed),
                    provenance.commit,
                    provenance.torch_version,
                    provenance.device,
                    f"{provenance.seconds:.1f}",
                )
            ],
        ),
        _table(
            ("hyper-parameter", "value"), [(name, str(value)) for name, value in provenance.hyper_parameters.items()]
        ),
    ]
    for title, file in pictures.items():
        parts += [f"## {title}", f"![{title}]({file})"]
    return "\n\n".join(parts) + "\n"


def _origin(hyper_parameters: Mapping[str, object], sent: Augmentation | None) -> str:
    if hyper_parameters.get("held_out"):
        twice = f", as they are and once more after {sent}" if sent is not None else ""
        return f"The temperature was fitted on training examples that were held out{twice}, never on test data."
    return "Nothing was held out in this run; the temperature is the one that was given."


def republished(text: str, before: ModelManifest, manifest: ModelManifest) -> str:
    """Return the card `text` of `before` for `manifest`, which has the same artifact and other evidence for its forms.

    Raises:
        ValueError: it is not the card of `before`.
    """
    same = f"The artifact is that of version {before.version}; which forms may serve was measured again."
    tested_on = before.metrics[0].data
    old_forms = f"\n\n{_forms(before, tested_on)}\n\n"
    text = text.replace(old_forms, "\n\n")  # cards from before forms were compared do not mention any
    for old, new in (
        (_title(before), _title(manifest)),
        (_published(before), f"{_published(manifest)} {same}"),
        (_MAKING_IT_AGAIN, f"{_forms(manifest, tested_on)}\n\n{_MAKING_IT_AGAIN}"),
    ):
        if text.count(old) != 1:
            raise ValueError(f"the card of {before.name}@{before.version} must hold {old!r} once")
        text = text.replace(old, new)
    return text


def _title(manifest: ModelManifest) -> str:
    return f"# {manifest.name}, version {manifest.version}"


def _published(manifest: ModelManifest) -> str:
    return f"Published {manifest.created:%Y-%m-%d %H:%M} UTC."


def _forms(manifest: ModelManifest, tested_on: str) -> str:
    names = [name for name in manifest.forms if name not in {e.form for e in manifest.half_precision}]
    parts = ["It serves as it is: no other form of it was proved to agree."] if not manifest.forms else []
    if names:
        listed = ", ".join(name.replace("_", " ") for name in names)
        parts.append(f"Other forms that gave every input of {tested_on} the same class: {listed}.")
    if manifest.half_precision:
        head = ("half precision", "split", "n", "same class as published", "accuracy, in points", "may serve")
        parts.append(_table(head, map(partial(_evidence, manifest.forms), manifest.half_precision)))
    return "\n\n".join(parts)


def _evidence(accepted: tuple[FormName, ...], found: FormEvidence) -> tuple[str, ...]:
    points = f"{100 * found.accuracy_difference:+.2f}"
    verdict = "yes" if found.form in accepted else "no"
    return (found.form, found.data, f"{found.n:,}", f"{found.agreement:.2%}", points, verdict)


def _percent(share: float) -> str:
    return "none" if math.isnan(share) else f"{share:.2%}"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = tuple(head)
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
