"""Three pictures of a run, as PNG bytes: its learning curve, its confusion matrix, its worst mistakes.

matplotlib is imported when a picture is drawn. It draws on a figure of its own: no window, no state shared.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import Any

from training.data.dataset import Dataset
from training.learning.trainer import EpochResult
from training.publishing.evaluate import Evaluation

MISTAKES = 36
COLUMNS = 6
MOST_CLASSES = 20
"""With more classes than these, names and counts in the confusion matrix would be too small to read."""


def learning_curve(history: Sequence[EpochResult]) -> bytes:
    """Draw loss and accuracy of every epoch, measured while the weights were changing."""
    figure = _figure(7, 4)
    loss = figure.add_subplot()
    epochs = [result.epoch for result in history]
    loss.plot(epochs, [result.loss for result in history], "o-", color="tab:blue", markersize=3)
    loss.set_xlabel("epoch")
    loss.set_ylabel("training loss", color="tab:blue")
    loss.xaxis.get_major_locator().set_params(integer=True)
    accuracy = loss.twinx()
    accuracy.plot(epochs, [result.accuracy for result in history], "o-", color="tab:orange", markersize=3)
    accuracy.set_ylabel("training accuracy", color="tab:orange")
    return _png(figure)


def confusion_matrix(evaluation: Evaluation) -> bytes:
    """Draw how often each class was taken for another, shaded by the share of its row."""
    classes = len(evaluation.classes)
    few = classes <= MOST_CLASSES
    side = max(4.0, 1.5 + 0.5 * classes) if few else 8.0
    figure = _figure(side, side)
    axes = figure.add_subplot()
    totals = [max(1, sum(row)) for row in evaluation.confusion]  # once for a row: a thousand classes took 7 s
    shares = [[count / total for count in row] for row, total in zip(evaluation.confusion, totals, strict=True)]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xlabel("predicted")
    axes.set_ylabel(f"label ({evaluation.data})", parse_math=False)
    if few:
        axes.set_xticks(range(classes), evaluation.classes, rotation=45, ha="right", parse_math=False)
        axes.set_yticks(range(classes), evaluation.classes, parse_math=False)
        for i, row in enumerate(evaluation.confusion):
            for j, count in enumerate(row):
                colour = "white" if shares[i][j] > 0.5 else "black" if count else "lightgrey"
                axes.text(j, i, f"{count}", ha="center", va="center", fontsize=7, color=colour)
    return _png(figure)


def worst_mistakes(evaluation: Evaluation, data: Dataset) -> bytes:
    """Draw the most confident mistakes, each with its label, the predicted class and the probability."""
    wrong = evaluation.mistakes[:MISTAKES]
    rows = max(1, -(-len(wrong) // COLUMNS))
    figure = _figure(1.3 * COLUMNS, 1.6 * rows)
    axes = figure.add_axes((0, 0, 1, 1))  # one for all: an axes for each of them takes ten times as long
    axes.set_axis_off()
    labels = data.labels.tolist()
    for place, i in enumerate(wrong):
        left, top = 1.3 * (place % COLUMNS), 1.6 * (place // COLUMNS)
        image = data.inputs[i].cpu().movedim(0, -1).squeeze(-1).numpy()
        axes.imshow(image, cmap="gray", vmin=0, vmax=255, extent=(left + 0.1, left + 1.2, top + 1.5, top + 0.4))
        taken_for = evaluation.classes[evaluation.predicted[i]]
        title = f"#{i}: {evaluation.classes[labels[i]]}\nas {taken_for}, {evaluation.confidences[i]:.0%}"
        axes.text(left + 0.65, top + 0.37, title, ha="center", va="bottom", fontsize=7, parse_math=False)
    if not wrong:
        axes.text(0.65 * COLUMNS, 0.8, f"no mistake on {evaluation.data}", ha="center", va="center", parse_math=False)
    axes.set_xlim(0, 1.3 * COLUMNS)
    axes.set_ylim(1.6 * rows, 0)
    return _png(figure)


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # of a class called 猫: matplotlib draws a box for each
        figure.savefig(buffer, format="png", dpi=100, bbox_inches="tight", metadata={"Software": None})
    return buffer.getvalue()
