"""How much faster our Winograd convolutions are than torch's: by layer, forward and backward, and a whole step.

    python -m benchmarks.convolutions [--threads 2] [--repeats 7]

Both compute the same gradients in turn, repeat by repeat; the times are medians, the ratio is the median of the ratios
of each pair. Layers as wide as those of `cifar10` at the two sizes its images have, and narrower ones, to see where it
stops to pay; then its network in three widths.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from benchmarks.machine import describe
from training.learning import device
from training.learning.gradients import gradients_of
from training.learning.winograd import convolve, quickened
from training.networks.whitened_net import WhitenedNet
from training.recipes import find

LAYERS = [
    (128, 128, 15),
    (128, 256, 15),
    (256, 256, 7),
    (256, 256, 3),
    (128, 128, 11),
    (128, 256, 11),
    (256, 256, 5),
    (64, 256, 15),
    (64, 64, 15),
    (48, 96, 7),
    (48, 48, 7),
    (24, 48, 14),
    (24, 24, 14),
    (24, 128, 31),
]
WIDTHS = [(64, 256, 256), (128, 256, 256), (128, 384, 384)]
IMAGES = 200

Seconds = tuple[list[float], list[float]]  # of torch's, of ours


def in_turn(direct: Callable[[], None], ours: Callable[[], None], repeats: int) -> Seconds:
    """What each took, `repeats` times, after once unmeasured."""
    seconds: Seconds = ([], [])
    for _ in range(repeats + 1):
        for compute, taken in zip((direct, ours), seconds, strict=True):
            started = time.perf_counter()
            compute()
            taken.append(time.perf_counter() - started)
    return seconds[0][1:], seconds[1][1:]


def layer(inputs: int, outputs: int, side: int, repeats: int) -> Seconds:
    images = torch.randn(IMAGES, inputs, side, side).to(memory_format=torch.channels_last).requires_grad_()
    filters = torch.randn(outputs, inputs, 3, 3).to(memory_format=torch.channels_last).requires_grad_()

    def there_and_back(convolution: Callable[[Tensor, Tensor], Tensor]) -> None:
        result = convolution(images, filters)
        torch.autograd.grad(result, (images, filters), result.detach())

    return in_turn(lambda: there_and_back(partial(conv2d, padding=1)), lambda: there_and_back(convolve), repeats)


def step(widths: tuple[int, int, int], side: int, repeats: int) -> Seconds:
    """All of a step of `cifar10`, or of its network in other widths, but for the optimiser."""
    hyper = find("cifar10").hyper
    network = WhitenedNet(widths=widths)
    gradients = gradients_of(network, hyper, torch.device("cpu"))
    images, labels = torch.randn(IMAGES, 3, side, side), torch.randint(0, 10, (IMAGES,))

    def direct() -> None:
        gradients(images, labels, n=IMAGES)

    def ours() -> None:
        with quickened(network, hyper):
            gradients(images, labels, n=IMAGES)

    return in_turn(direct, ours, repeats)


def row(name: str, seconds: Seconds) -> str:
    direct, ours = seconds
    each = [1e3 * statistics.median(taken) / IMAGES for taken in seconds]
    ratios = sorted(one / other for one, other in zip(direct, ours, strict=True))
    spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
    return f"| {name} | {each[0]:.2f} | {each[1]:.2f} | {statistics.median(ratios):.2f} | {spread} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    device.keep_freed_memory()

    print("| | torch, ms an image | ours | ratio | least to most |\n|---|---|---|---|---|")
    for inputs, outputs, side in LAYERS:
        seconds = layer(inputs, outputs, side, arguments.repeats)
        print(row(f"{inputs} to {outputs} channels at {side} x {side}", seconds), flush=True)
    for widths in WIDTHS:
        name = "-".join(map(str, widths))
        for side in (32, 24):
            seconds = step(widths, side, arguments.repeats)
            print(row(f"a step of the network {name} at {side} x {side}", seconds), flush=True)
    print(f"\n{describe()}; n={arguments.repeats} in turn, batches of {IMAGES}, {arguments.threads} threads.")


if __name__ == "__main__":
    main()
