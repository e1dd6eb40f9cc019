"""The training loop: epochs and steps. Knows nothing about files, evaluation or the registry."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, dataclass

from torch import nn

from training.data.augmentation import Augmentation
from training.data.batches import GATHERED, Feed, batches
from training.data.dataset import Dataset
from training.errors import OptionError
from training.hyper_parameters import HyperParameters
from training.learning.blend import Blend
from training.learning.checkpoint import Checkpoints, Stateful
from training.learning.closure_step import ClosureStep
from training.learning.distributed import World
from training.learning.graphed_step import fastest_step
from training.learning.meter import Meter
from training.learning.norms import measure_norms
from training.learning.optimisers import Schedule, build_optimiser, use_average
from training.learning.progress import Epoch, Progress
from training.learning.step import EagerStep, Step
from training.learning.validation import Best, Validation, validate
from training.networks.preprocessing import Preprocessing

logger = logging.getLogger(__name__)

ALONE = World()

_CAPTURED = ("sgd", "adam", "muon")
"""Optimisers whose steps may become CUDA graphs; RAdam and ASGD decide by a step count that they keep on the CPU."""


@dataclass(frozen=True)
class EpochResult:
    """Loss and accuracy of one epoch of training, measured while the weights were changing."""

    epoch: int  # from 1
    loss: float  # mean over the examples
    accuracy: float
    seconds: float
    validation_loss: float | None = None  # on the held-out examples, after the epoch; None without any
    validation_accuracy: float | None = None


def train(
    network: nn.Module,
    preprocessing: Preprocessing,
    *,
    data: Dataset,
    hyper: HyperParameters,
    progress: Progress,
    augmentation: Augmentation | None = None,
    checkpoints: Checkpoints | None = None,
    world: World = ALONE,
    feed: Feed = GATHERED,
    held_out: Dataset | None = None,
) -> list[EpochResult]:
    """Train `network` in place on `data` and return the result of every epoch.

    Every epoch is validated on `held_out`, if that is given. With `hyper.patience` the run stops when it has waited so
    many epochs for a lower validation loss, and the network ends with the weights of the epoch that had the lowest.
    With `hyper.start_share` it ends with the average of those and the weights that it came with, in that proportion.

    Network and data are on one device, unless `feed` brings the batches there. A network with one raw logit z is
    trained as the two classes [0, z]: their cross-entropy is BCEWithLogitsLoss. Each process of `world` trains on a
    part of every batch.

    On the CPU, the same weights, data and hyper-parameters end with the same bits, also when `checkpoints` resumes the
    run in the middle.

    Raises:
        OptionError: `drop_last` leaves no batch.
        TrainingError: the loss is no longer a finite number, or a checkpoint cannot be read or written.
    """
    iterations = hyper.iterations(len(data))
    if not iterations:
        raise OptionError(
            f"batch_size with drop_last must be at most the {len(data):,} examples of {data.title}. "
            f"Given: {hyper.batch_size}"
        )
    device = feed.device or data.inputs.device
    steps = hyper.epochs * iterations
    weights = (weight for weight in network.parameters() if weight.requires_grad)
    optimiser = build_optimiser(weights, hyper, steps=steps)
    schedule = Schedule(optimiser, hyper, steps=steps)
    step: Step
    if hyper.optimiser == "lbfgs":
        step = ClosureStep(network, optimiser, hyper, device=device, world=world)
    else:
        step = EagerStep(network, optimiser, hyper, device=device, world=world)
        if hyper.optimiser in _CAPTURED:
            step = fastest_step(step, device, world)
    blend = Blend(network, hyper.start_share)
    best = Best(network, patience=hyper.patience if held_out is not None else 0)
    parts: dict[str, Stateful] = {"network": network, "optimiser": optimiser, "schedule": schedule, "best": best}
    results = checkpoints.restore(parts, EpochResult) if checkpoints is not None else []
    world.align(network)

    network.train()
    with world.shared_norms(network):
        for epoch in range(len(results) + 1, hyper.epochs + 1):
            if best.is_long_ago(epoch - 1):  # also when a run resumes after its end
                break
            started, rates = time.perf_counter(), schedule.rates()
            meter = Meter(epoch, iterations, device)
            progress.start_epoch(epoch, hyper.epochs, iterations)
            for inputs, labels in batches(data, hyper, epoch, augmentation, feed, prepare=preprocessing):
                loss, logits = step(inputs, labels)
                schedule.step()
                meter.add(loss, logits, world.part(labels))
                if progress.due():
                    progress.show(*meter.read(), examples=meter.examples)
            meter.gather(world)
            measured = meter.read()
            seconds = time.perf_counter() - started
            validation = None
            if held_out is not None:
                validation = Validation(*world.lead(validate(network, preprocessing, held_out, device)))
                best.see(epoch, validation.loss)
            results.append(EpochResult(epoch, *measured, seconds, *(validation or ())))
            progress.end_epoch(Epoch(*measured, meter.examples, validation, rates))
            last = epoch == hyper.epochs or best.is_long_ago(epoch)
            if checkpoints is not None:
                checkpoints.save(parts, [asdict(result) for result in results], last=last)
        averaged = use_average(optimiser)
        best.restore()
        if blend.finish() or averaged:
            last_epoch = batches(data, hyper, hyper.epochs, augmentation, feed, prepare=preprocessing)
            measure_norms(network, (inputs for inputs, _ in last_epoch), world=world)
    if best.epoch and world.leads:
        logger.info("kept epoch %d of %d, whose validation loss is the lowest", best.epoch, len(results))
    return results
