"""What the tests start twice under torchrun: it trains on a part of every batch and leaves what it got, by rank."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from tests.training.conftest import Silent
from training.data.dataset import Dataset
from training.errors import TrainingError
from training.hyper_parameters import HyperParameters
from training.learning.checkpoint import Checkpoints
from training.learning.distributed import World, joined
from training.learning.trainer import ALONE, EpochResult, train
from training.networks.preprocessing import Preprocessing

HYPER = HyperParameters(epochs=2, batch_size=16, optimiser="sgd", lr=0.2, momentum=0.9, label_smoothing=0.1)


def examples() -> Dataset:
    """Batches of 16, 16 and 1: odd ones, and one that leaves the second process nothing."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (33, 1, 6, 6), generator=generator, dtype=torch.uint8)
    return Dataset("noise", "train", images, torch.randint(0, 3, (33,), generator=generator), ("a", "b", "c"))


def network(*, norm: bool) -> nn.Module:
    torch.manual_seed(0)
    norms = [nn.BatchNorm2d(4, momentum=0.3)] if norm else []
    return nn.Sequential(nn.Conv2d(1, 4, 3), *norms, nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))


def gradients(world: World = ALONE) -> list[Tensor]:
    """The gradients of the first batch, as `train` leaves them."""
    network_ = network(norm=True)
    data = examples().subset(15)
    train(network_, Preprocessing(), data=data, hyper=once(), progress=Silent(), world=world)
    return [parameter.grad for parameter in network_.parameters() if parameter.grad is not None]


def once() -> HyperParameters:
    return HyperParameters(epochs=1, batch_size=15, optimiser="sgd", lr=0.2)


def trained(*, norm: bool, kept: float = 0.0, world: World = ALONE) -> tuple[dict[str, Tensor], list[EpochResult]]:
    network_ = network(norm=norm)
    data = examples().subset(32) if norm else examples()
    hyper = HYPER.override({"start_share": kept})
    history = train(network_, Preprocessing(), data=data, hyper=hyper, progress=Silent(), world=world)
    return network_.state_dict(), history


class Stops(Silent):
    """The end of a job in its second epoch."""

    def start_epoch(self, epoch: int, epochs: int, iterations: int) -> None:
        super().start_epoch(epoch, epochs, iterations)
        if epoch == 2:
            raise KeyboardInterrupt


def resumed(folder: Path, world: World) -> dict[str, Tensor]:
    """The weights after a run that was interrupted, when each process has a disk of its own."""
    disk, data = folder / f"disk-{world.rank}", examples()
    with contextlib.suppress(KeyboardInterrupt):
        train(
            network(norm=False),
            Preprocessing(),
            data=data,
            hyper=HYPER,
            progress=Stops(),
            checkpoints=Checkpoints(disk, resume=True, world=world),
            world=world,
        )
    network_ = network(norm=False)
    checkpoints = Checkpoints(disk, resume=True, world=world)
    train(network_, Preprocessing(), data=data, hyper=HYPER, progress=Silent(), checkpoints=checkpoints, world=world)
    return network_.state_dict()


def refused(folder: Path, world: World) -> str:
    """What each process is told when the first one's checkpoint is damaged and the other one has none."""
    disk = folder / f"damaged-{world.rank}"
    if world.leads:
        disk.mkdir()
        (disk / "checkpoint.pt").write_bytes(b"no checkpoint")
    try:
        Checkpoints(disk, resume=True, world=world).restore({}, dict)
    except TrainingError as error:
        return str(error)
    return ""


def main(folder: Path) -> None:
    with joined(torch.device("cpu")) as world:
        if not world.leads:
            torch.manual_seed(world.rank)
        results = {
            "size": world.size,
            "gradients": gradients(world),
            "normed": trained(norm=True, world=world)[0],
            "kept": trained(norm=True, kept=0.25, world=world)[0],
            "plain": trained(norm=False, world=world)[0],
            "losses": [(epoch.loss, epoch.accuracy) for epoch in trained(norm=False, world=world)[1]],
        }
        results |= {"resumed": resumed(folder, world), "refused": refused(folder, world)}
        torch.save(results, folder / f"{world.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
