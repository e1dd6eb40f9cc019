"""The card of a version, in Markdown, for people who want to use or reproduce it."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from service.contract.manifest import FormEvidence, ModelManifest
from service.contract.variants import FormName
from training.data.augmentation import Augmentation
from training.data.corruptions import SEVERITIES, SOURCE
from training.learning.trainer import EpochResult
from training.publishing.evaluate import Evaluation
from training.publishing.robustness import Robustness
from training.publishing.sharpening import Sharpening

_SAME = re.compile(r" The (?:artifact|network) is that of version \d+[^.]*\.")
_ACCURACY = "## Accuracy"
_LAST_EPOCH = "the last epoch of training, as it went"
_SIZE = "## Size and speed"
_MAKING_IT_AGAIN = "## Making it again"


@dataclass(frozen=True)
class Measurements:
    """What a card shows of a version's quality."""

    evaluations: Sequence[Evaluation]  # that on the test split first
    robustness: Sequence[Robustness] = ()  # likewise
    sent: Augmentation | None = None  # what was done to the held-out examples to fit the temperature on them once more
    sharpening: Sharpening | None = None


def card(
    manifest: ModelManifest,
    *,
    network: str,
    command: str,
    measured: Measurements,
    history: Sequence[EpochResult],
    latencies: Mapping[int, float],
    pictures: Mapping[str, str],
) -> str:
    """Return everything about `manifest`, its measurements and how to make it again; `pictures` are files by title."""
    provenance, last = manifest.provenance, history[-1]
    parts = [
        _title(manifest),
        f"{network}. {len(manifest.classes)} classes: {', '.join(map(_in_a_line, manifest.classes))}.",
        _published(manifest),
    ]
    if manifest.forced is not None:
        parts.append(f"**Published by force**, although {_in_a_line(manifest.forced)}.")
    parts += [
        "## Data",
        _table(
            ("trained on", "sha256", "input"),
            [(provenance.dataset, provenance.dataset_digest, f"{manifest.input.dtype} {list(manifest.input.shape)}")],
        ),
        *_measurements(manifest, measured, (_LAST_EPOCH, "", f"{last.accuracy:.2%}", f"{last.loss:.4f}")),
        _SIZE,
        _artifact(manifest),
        f"One call on {provenance.device}, median:",
        _table(
            ("batch", "milliseconds", "per input"),
            [(str(size), f"{ms:.2f}", f"{ms / size:.3f}") for size, ms in latencies.items()],
        ),
        _forms(manifest, measured.evaluations[0].data),
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


def _measurements(manifest: ModelManifest, measured: Measurements, last_epoch: Iterable[str]) -> list[str]:
    """Return the sections on what was measured, of which the first is that on accuracy."""
    test = measured.evaluations[0]
    return [
        _ACCURACY,
        _table(
            ("split", "n", "accuracy", "loss"),
            [
                *((e.data, f"{e.n:,}", f"{e.accuracy:.2%}", f"{e.loss:.4f}") for e in measured.evaluations),
                last_epoch,
            ],
        ),
        f"By class, on {_in_a_line(test.data)}:",
        _table(
            ("class", "n", "recall", "precision"),
            [(r.name, f"{r.n:,}", _percent(r.recall), _percent(r.precision)) for r in test.per_class],
        ),
        "## Calibration",
        f"Probabilities are softmax(logits / {manifest.temperature:g}). {_origin(manifest, measured)} "
        "ECE is the expected calibration error over 15 bins (Guo et al., 2017). It stays below the bound beside it in "
        "95 of 100 draws of labels from the model's own probabilities: up to there it may be chance.",
        _table(
            ("split", "temperature", "NLL", "Brier", "ECE", "bound"),
            [
                (e.data, f"{c.temperature:g}", f"{c.nll:.4f}", f"{c.brier:.4f}", f"{c.ece:.2%}", f"{c.ece_bound:.2%}")
                for e in measured.evaluations
                for c in ((e.uncalibrated, e.calibrated) if e.calibrated != e.uncalibrated else (e.uncalibrated,))
            ],
        ),
        *_robustness(measured.robustness),
        *_abstention(manifest),
    ]


def _robustness(measured: Sequence[Robustness]) -> list[str]:
    """Return the accuracy on corrupted copies, by kind and severity on the first split that was measured."""
    if not measured:
        return []
    first = measured[0]
    kinds = sorted(first.accuracies, key=first.of)
    return [
        "## Corrupted copies",
        f"Sixteen kinds of corruption at five severities ({SOURCE}). One copy of each of n images for every kind and "
        "severity; the mean is over all of them.",
        _table(
            ("split", "n", "mean", "worst kind"),
            [(m.data, f"{m.n:,}", f"{m.mean:.2%}", f"{m.worst}, {m.of(m.worst):.2%}") for m in measured],
        ),
        f"By kind, on {_in_a_line(first.data)}:",
        _table(
            ("kind", "mean", *(f"severity {severity}" for severity in SEVERITIES)),
            [(kind, f"{first.of(kind):.1%}", *(f"{a:.1%}" for a in first.accuracies[kind])) for kind in kinds],
        ),
    ]


def _origin(manifest: ModelManifest, measured: Measurements) -> str:
    """Return on what the temperature was fitted, and which split therefore measures it too well."""
    sent, fitted = measured.sent, "The temperature"
    if measured.sharpening is not None:
        fitted = (
            "No temperature alone kept the ECE of held-out examples below its bound, so the graph multiplies the "
            f"network's logits by {measured.sharpening}, where m is how far the first is above the second. This"
        )
    if manifest.provenance.hyper_parameters.get("held_out"):
        twice = f", as they are and once more after {sent}" if sent is not None else ""
        # Of the split alone: a folder may be called "cats and dogs".
        splits = manifest.sets.data.rpartition("/")[2] if manifest.sets is not None else ""
        more = splits.partition(" and ")[2]
        also = f" and on {more}, which no run trains on" if more else ""
        flatters = f" So {more} flatters calibration and prediction sets, as held-out does." if more else ""
        return (
            f"{fitted} was fitted on training examples that were held out{also}{twice}, never on test data.{flatters}"
        )
    return "Nothing was held out in this run; the temperature is the one that was given."


def republished(text: str, before: ModelManifest, manifest: ModelManifest, measured: Measurements | None = None) -> str:
    """Return the card `text` of `before` for `manifest`, which has the same network and other evidence for its forms.

    `measured` is what was measured again beside that.

    Raises:
        ValueError: it is not the card of `before`.
    """
    part, again = ("artifact", "which forms may serve") if measured is None else ("network", "everything")
    same = f"The {part} is that of version {before.version}; {again} was measured again."
    text = _SAME.sub("", text)  # of what `before` was itself
    tested_on = before.metrics[0].data
    old_forms = f"\n\n{_forms(before, tested_on)}\n\n"
    text = text.replace(old_forms, "\n\n")  # cards from before forms were compared do not mention any
    changes = [
        (_title(before), _title(manifest)),
        (_published(before), f"{_published(manifest)} {same}"),
        (_artifact(before), _artifact(manifest)),
        (_MAKING_IT_AGAIN, f"{_forms(manifest, tested_on)}\n\n{_MAKING_IT_AGAIN}"),
    ]
    if measured is not None:
        _, heading, rest = text.partition(_ACCURACY)
        old = heading + rest.partition(_SIZE)[0]
        last_epoch = re.search(rf"^\| ({_LAST_EPOCH}) \| (.*) \| (.*) \| (.*) \|$", old, re.MULTILINE)
        if last_epoch is None:
            raise ValueError(f"the card of {before.name}@{before.version} must hold {_LAST_EPOCH!r}")
        changes.append((old, "\n\n".join((*_measurements(manifest, measured, last_epoch.groups()), ""))))
    for old, new in changes:
        if text.count(old) != 1:
            raise ValueError(f"the card of {before.name}@{before.version} must hold {old!r} once")
        text = text.replace(old, new)
    return text


def _title(manifest: ModelManifest) -> str:
    return f"# {manifest.name}, version {manifest.version}"


def _published(manifest: ModelManifest) -> str:
    return f"Published {manifest.created:%Y-%m-%d %H:%M} UTC."


def _artifact(manifest: ModelManifest) -> str:
    return f"`model.pt` has {manifest.artifact.size_bytes:,} bytes (sha256 `{manifest.artifact.sha256}`)."


def _abstention(manifest: ModelManifest) -> list[str]:
    """Return how well it knows what it does not know, if it was measured."""
    found, sets = manifest.outliers, manifest.sets
    if found is None or sets is None:
        return []
    parts = [
        "## What it does not know",
        "Each input gets an outlier score inside the graph: the energy of the logits and, with convolutions, the "
        "distance of a feature map from the training data's. The threshold is the score that 2 % of the held-out "
        f"inputs exceed ({_in_a_line(found.data)}, n={found.n:,}); `?abstain=true` gives no label beyond it. "
        f"Prediction sets are split conformal, set on n={sets.n:,} of them; beside each coverage stands its 95 % "
        "interval for so many inputs.",
        _table(
            ("split", "n", "outliers", "truth in the 95 % set", "classes in it, mean"),
            [
                (
                    data,
                    f"{n:,}",
                    f"{values['outliers']:.2%}",
                    f"{values['coverage_95']:.2%} ({_interval(values['coverage_95'], n)})",
                    f"{values['set_size_95']:.2f}",
                )
                for (data, n), values in _by_split(manifest).items()
            ],
        ),
    ]
    if manifest.foreign:
        parts += [
            "Pictures that no class describes, as a client would send them, against those of "
            f"{_in_a_line(manifest.foreign[0].data)}:",
            _table(
                ("foreign pictures", "n", "AUROC", "FPR at 95 % TPR", "reported as outliers"),
                [
                    (e.kind, f"{e.n:,}", f"{e.auroc:.4f}", f"{e.fpr95:.2%}", f"{e.flagged:.1%}")
                    for e in manifest.foreign
                ],
            ),
        ]
    return parts


def _by_split(manifest: ModelManifest) -> dict[tuple[str, int], dict[str, float]]:
    """Return the metrics of abstention by what they were measured on."""
    found: dict[tuple[str, int], dict[str, float]] = {}
    for metric in manifest.metrics:
        if metric.name in ("outliers", "coverage_95", "set_size_95"):
            found.setdefault((metric.data, metric.n), {})[metric.name] = metric.value
    return found


def _forms(manifest: ModelManifest, tested_on: str) -> str:
    names = [name for name in manifest.forms if name not in {e.form for e in manifest.half_precision}]
    parts = ["It serves as it is: no other form of it was proved to agree."] if not manifest.forms else []
    if names:
        listed = ", ".join(name.replace("_", " ") for name in names)
        parts.append(f"Other forms that gave every input of {_in_a_line(tested_on)} the same class: {listed}.")
    if manifest.half_precision:
        head = (*_EVIDENCE[:4], *(_EVIDENCE[4:5] if manifest.outliers else ()), *_EVIDENCE[5:])
        parts.append(_table(head, map(partial(_evidence, manifest.forms), manifest.half_precision)))
    return "\n\n".join(parts)


_EVIDENCE = (
    *("half precision", "split", "n", "same class as published", "same outliers"),
    *("accuracy, in points", "may serve"),
)


def _evidence(accepted: tuple[FormName, ...], found: FormEvidence) -> tuple[str, ...]:
    points = f"{100 * found.accuracy_difference:+.2f}"
    verdict = "yes" if found.form in accepted else "no"
    same_flag = () if found.outlier_agreement is None else (f"{found.outlier_agreement:.2%}",)
    return (found.form, found.data, f"{found.n:,}", f"{found.agreement:.2%}", *same_flag, points, verdict)


def _interval(share: float, n: int) -> str:
    """Return Wilson's 95 % interval of a share of `n`."""
    z = 1.96
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return f"{middle - reach:.2%} to {middle + reach:.2%}"


def _percent(share: float) -> str:
    return "none" if math.isnan(share) else f"{share:.2%}"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = tuple(head)
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(_in_a_line(cell) for cell in line)} |" for line in lines)


def _in_a_line(text: str) -> str:
    """Return `text` as Markdown that shows it as it is, without line breaks or other control characters.

    Names of folders and labels of tables may have any.
    """
    text = "".join(" " if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c for c in text)
    return _MARKUP.sub(r"\\\g<0>", text)


_MARKUP = re.compile(r"[\\`*<~|]|\](?=\()|&(?=#?\w+;)|(?<!\w)_|_(?!\w)")
"""What means something in a line of Markdown. An underscore inside a word, as in batch_size, does not."""
