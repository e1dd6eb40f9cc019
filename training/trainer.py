"""The training loop: batches, steps, epochs. Knows nothing about files, evaluation or the registry."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from training.data import Dataset
from training.errors import OptionError
from training.hyper_parameters import HyperParameters
from training.meter import Meter
from training.optimisers import build_optimiser, build_schedule
from training.preprocessing import Preprocessing
from training.progress import Progress


@dataclass(frozen=True)
class EpochResult:
    """What one epoch of training saw, measured while the weights were changing."""

    epoch: int  # from 1
    loss: float  # mean over the examples
    accuracy: float
    seconds: float


def train(
    network: nn.Module,
    preprocessing: Preprocessing,
    *,
    data: Dataset,
    hyper: HyperParameters,
    progress: Progress,
) -> list[EpochResult]:
    """Train `network` in place on `data`, both on one device, and return what each epoch saw.

    On the CPU the same weights, data and hyper-parameters end with the same bits.

    Raises:
        OptionError: `drop_last` leaves no batch.
        TrainingError: the loss is no longer a finite number.
    """
    iterations = hyper.iterations(len(data))
    if not iterations:
        raise OptionError(
            f"batch_size with drop_last must be at most the {len(data):,} examples of {data.title}. "
            f"Given: {hyper.batch_size}"
        )
    device = data.inputs.device
    optimiser = build_optimiser(network.parameters(), hyper)
    schedule = build_schedule(optimiser, hyper, steps=hyper.epochs * iterations)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=hyper.precision == "bfloat16")
    results: list[EpochResult] = []

    network.train()
    for epoch in range(1, hyper.epochs + 1):
        started = time.perf_counter()
        meter = Meter(epoch, iterations, device)
        progress.start_epoch(epoch, hyper.epochs, iterations)
        for inputs, labels in batches(data, hyper, epoch):
            optimiser.zero_grad()
            with autocast:
                logits = network(preprocessing(inputs))
            loss = cross_entropy(logits.float(), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            meter.add(loss, logits, labels)
            if progress.due():
                progress.show(*meter.read(), examples=meter.examples)
        results.append(EpochResult(epoch, *meter.read(), seconds=time.perf_counter() - started))
        progress.end_epoch(results[-1].loss, results[-1].accuracy, examples=meter.examples)
    return results


def batches(data: Dataset, hyper: HyperParameters, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and labels of each iteration of an epoch; the order depends on the seed and the epoch alone."""
    if hyper.shuffle:
        # torch's generator on the CPU looks at the low 32 bits of a seed alone.
        generator = torch.Generator().manual_seed((hyper.seed * 1_000_003 + epoch) % 2**32)
        order = torch.randperm(len(data), generator=generator)
    else:
        order = torch.arange(len(data))
    order = order.to(data.inputs.device)
    for chosen in torch.split(order, hyper.batch_size)[: hyper.iterations(len(data))]:
        # A batch of 64 gathered here and scaled takes 0.06 ms of a CPU core; DataLoader and ToTensor take 8.8 ms.
        yield data.inputs.index_select(0, chosen), data.labels.index_select(0, chosen)
