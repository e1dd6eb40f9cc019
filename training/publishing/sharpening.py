"""Calibration by more than a temperature: logits are multiplied by a number that depends on the margin of the first.

For networks whose probabilities no single temperature corrects. As in parameterised temperature scaling (Tomani et al.,
2022, https://arxiv.org/abs/2102.12182) each input has a temperature of its own, here a smooth function of how far the
first logit is above the second; it is fitted to the confidences, as an ECE is measured. No class changes, nor the order
of classes. Knows nothing about networks: logits and labels come in.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy

from training.learning.torch_optimisers import LBFGS
from training.publishing.calibrate import calibration, fit_temperature

LEAST_HELD_OUT = 1_000
"""Fewer held-out examples show no more than a temperature corrects."""


class Sharpening(nn.Module):
    """Multiply logits, float32 [N, K], by exp(level + slope * margin + bend * margin^2); it can be scripted."""

    def __init__(self, level: float, slope: float, bend: float, widest: float) -> None:
        super().__init__()
        self.level = level
        self.slope = slope
        self.bend = bend
        self.widest = widest  # the margin beyond which nothing was seen

    def forward(self, logits: Tensor) -> Tensor:
        first = logits.topk(2, 1).values
        margin = (first.narrow(1, 0, 1) - first.narrow(1, 1, 1)).clamp(max=self.widest)
        return logits * torch.exp(self.level + margin * (self.slope + margin * self.bend))

    def __str__(self) -> str:
        return f"exp({self.level:g} {self.slope:+g} m {self.bend:+g} m^2), m at most {self.widest:g}"


def fit(logits: Tensor, labels: Tensor, *, ways: int = 1) -> tuple[float, Sharpening | None]:
    """Return the temperature for held-out logits, float [N, K], and what corrects more if that leaves them wrong.

    They are wrong if the ECE is beyond its bound in any of the `ways` in which the examples come, one after the other.
    The temperature is 1 then.
    """
    logits, labels = logits.cpu(), labels.cpu()
    temperature = fit_temperature(logits, labels)
    parts = [
        calibration(*part, temperature=temperature) for part in zip(logits.chunk(ways), labels.chunk(ways), strict=True)
    ]
    if len(labels) // ways < LEAST_HELD_OUT or all(part.ece <= part.ece_bound for part in parts):
        return temperature, None
    sharpening = fit_sharpening(logits, labels)
    return (temperature, None) if sharpening is None else (1.0, sharpening)


def fit_sharpening(logits: Tensor, labels: Tensor) -> Sharpening | None:
    """Return the sharpening whose confidences make it most probable which of the predictions are right.

    None if there is none, as where all are wrong: then ever flatter logits are better.
    """
    logits = logits.double()
    first = logits.topk(2, 1).values
    widest = (first[:, 0] - first[:, 1]).quantile(0.99).item()
    right = (logits.argmax(1) == labels).double()
    margin = (first[:, :1] - first[:, 1:]).clamp(max=widest)
    start = -torch.tensor(fit_temperature(logits, labels), dtype=torch.float64).log()
    numbers = torch.stack([start, torch.zeros_like(start), torch.zeros_like(start)]).requires_grad_()
    optimiser = LBFGS([numbers], max_iter=300, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        sharpened = logits * (numbers[0] + margin * (numbers[1] + margin * numbers[2])).exp()
        confidences = sharpened.softmax(1).amax(1).clamp(1e-9, 1 - 1e-9)
        if not confidences.isfinite().all():
            raise OverflowError
        value = binary_cross_entropy(confidences, right)
        value.backward()
        return value

    try:
        optimiser.step(loss)
    except OverflowError:
        return None
    level, slope, bend = (float(f"{number:.4g}") for number in numbers.tolist())
    return Sharpening(level, slope, bend, float(f"{widest:.4g}"))
