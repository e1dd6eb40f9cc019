"""The training loop: steps and epochs. Knows nothing about files, evaluation or the registry."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass

from torch import nn

from training.data.augmentation import Augmentation
from training.data.batches import GATHERED, Feed, batches
from training.data.dataset import Dataset
from training.errors import OptionError
from training.hyper_parameters import HyperParameters
from training.learning.checkpoint import Checkpoints, Stateful
from training.learning.distributed import World
from training.learning.gradients import gradients_of
from training.learning.meter import Meter
from training.learning.optimisers import build_optimiser
from training.learning.progress import Progress
from training.learning.winograd import quickened
from training.networks.preprocessing import Preprocessing

ALONE = World()


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
    augmentation: Augmentation | None = None,
    checkpoints: Checkpoints | None = None,
    world: World = ALONE,
    feed: Feed = GATHERED,
) -> list[EpochResult]:
    """Train `network` in place on `data`, both on one device unless `feed` brings it there; gives what each epoch saw.

    A network with one raw logit z is trained as the two classes [0, z]: their cross-entropy is BCEWithLogitsLoss.

    On the CPU the same weights, data and hyper-parameters end with the same bits, also when `checkpoints` had the run
    go on from the middle. Where several processes are the `world`, each takes a part of every batch.

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
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    optimiser = build_optimiser(weights, hyper, steps=hyper.epochs * iterations)
    gradients = gradients_of(network, hyper, device)
    parts: dict[str, Stateful] = {"network": network, "optimiser": optimiser}
    results = [EpochResult(**epoch) for epoch in checkpoints.restore(parts)] if checkpoints is not None else []
    world.align(network)

    network.train()
    with world.shared_norms(network), quickened(network, hyper):
        for epoch in range(len(results) + 1, hyper.epochs + 1):
            started = time.perf_counter()
            meter = Meter(epoch, iterations, device, label_smoothing=hyper.label_smoothing)
            progress.start_epoch(epoch, hyper.epochs, iterations)
            for inputs, labels in batches(data, hyper, epoch, augmentation, feed):
                n = len(labels)
                inputs, labels = world.part(inputs), world.part(labels)
                logits = gradients(preprocessing(inputs), labels, n=n)
                world.sum_gradients(weights)
                optimiser.step()
                meter.add(logits, labels)
                if progress.due():
                    progress.show(*meter.read(), examples=meter.examples)
            meter.gather(world)
            results.append(EpochResult(epoch, *meter.read(), seconds=time.perf_counter() - started))
            progress.end_epoch(results[-1].loss, results[-1].accuracy, examples=meter.examples)
            if checkpoints is not None:
                checkpoints.save(parts, [asdict(result) for result in results], last=epoch == hyper.epochs)
    return results
