"""A recipe: a complete, named way to train a classifier, from data to network. `recipes` has those that there are.

A recipe is a value; nothing is built or read before `pipeline.run`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from torch import Generator, Tensor, nn

from training.data.augmentation import Augmentation, InTurn, scaled, shrink
from training.data.dataset import Dataset
from training.errors import OptionError
from training.hyper_parameters import HyperParameters
from training.learning.device import has_bfloat16
from training.networks.activations import replace_activations
from training.networks.preprocessing import Preprocessing
from training.networks.whitened_net import WhitenedNet


class Start(Protocol):
    """A network that was trained before, with which a run goes on."""

    @property
    def name(self) -> str:
        """How manifests name it."""
        ...

    @property
    def place(self) -> str:
        """How the command line names it."""
        ...

    @property
    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation of each channel or feature, as it was trained with."""
        ...

    @property
    def activation(self) -> str:
        """The hyper-parameter of the run that trained it."""
        ...

    def expect(self, data: Dataset, hyper: HyperParameters) -> None:
        """Raise OptionError if a run on `data` with `hyper` cannot go on from here."""
        ...

    def put_into(self, network: nn.Module, preprocessing: Preprocessing, inputs: Tensor) -> None:
        """Give `network` its weights; `inputs` are raw ones of the training data."""
        ...


@dataclass(frozen=True)
class Recipe:
    """A recipe for one classifier."""

    name: str
    summary: str  # of the network, for people
    network: Callable[[tuple[int, ...], int], nn.Module]  # shape of one input and number of classes -> network
    data: str  # a name in `sources`
    hyper: HyperParameters
    expected: float  # accuracy on the first of `splits` of `data`, the least that the recipe is known to reach
    expected_corrupted: float | None = None  # likewise on corrupted copies of held-out examples of `data`
    splits: tuple[str, ...] = ("test",)  # what it is measured on; the first one counts
    style: Literal["photo", "mnist"] = "photo"  # how a picture of another size becomes an input when served
    standardise: bool = False  # to mean 0 and deviation 1 of each channel or feature of the training data
    augmentation: Augmentation | None = None
    gentle: Augmentation | None = None  # what takes its place in the last epochs, if `hyper.gentle_share` says so
    takes: tuple[Literal["images", "features"], ...] = ("images",)
    pools: bool = False  # over the whole image, so that the network takes images of any size
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None = None  # mean and deviation of each channel
    start: Start | None = None  # in place of fresh weights
    calibrated_on: tuple[str, ...] = ()  # those of `splits` that set temperature, thresholds and prediction sets too
    sent: Augmentation | None = None  # what clients may do to an input first: its probabilities must hold then too
    bfloat16_pays: bool = False  # for a network of this size, where the device has instructions for it
    threads: int = 0  # CPU threads that pay for a network of this size; 0 for all cores

    @property
    def measured_on(self) -> str:
        """The data of `expected`, e.g. "mnist/test"."""
        return f"{self.data}/{self.splits[0]}"

    def model_name(self, data: str | None) -> str:
        """Return the name to publish under by default: the recipe's, with the kind of other data behind it."""
        kind = (data or self.data).partition(":")[0]
        return self.name if kind == self.data else f"{self.name}-{kind}"

    def hyper_on(self, device: torch.device) -> HyperParameters:
        """Return the hyper-parameters for `device`, with bfloat16 where that is faster."""
        return (
            self.hyper.override({"precision": "bfloat16"})
            if self.bfloat16_pays and has_bfloat16(device)
            else self.hyper
        )

    def build(self, data: Dataset, *, activation: str = "own") -> nn.Module:
        """Build a network with the shape that `data` needs, and fresh weights or those that the recipe starts from.

        Raises:
            OptionError: the network has no activation to replace by `activation`, or `start` is of another network.
        """
        network = self.network(tuple(data.inputs.shape[1:]), len(data.classes))
        if activation != "own" and not replace_activations(network, activation):
            raise OptionError(f"activation must be own with {self.name}, which has none. Given: {activation}")
        inputs, preprocessing = data.inputs[:2000].cpu(), self.preprocessing(data)
        if self.start is not None:
            self.start.put_into(network, preprocessing, inputs)
        if isinstance(network, WhitenedNet):
            network.whiten_from(preprocessing(inputs), again=self.start is not None)
        return network

    def expect_start(self, hyper: HyperParameters) -> None:
        """Raise OptionError if `hyper` keeps a share of a published version and this recipe does not start from one."""
        if hyper.start_share and self.start is None:
            raise OptionError(
                f"start_share must be given with --pretrained and a published version. Given: {hyper.start_share} "
                "without one"
            )

    def try_out(self, data: Dataset, hyper: HyperParameters) -> None:
        """Compute a few examples as training with `hyper` and serving will, without an effect on chance.

        Raises:
            OptionError: the run cannot go on from `start`, or the network cannot take inputs of this size.
        """
        if self.start is not None:
            self.start.expect(data, hyper)
        few = data.subset(2).to(torch.device("cpu"))
        try:
            self._compute(few, hyper)
        except (RuntimeError, ValueError, IndexError) as error:
            shape = " x ".join(map(str, few.inputs.shape[1:]))
            reason = str(error).partition("\n")[0]
            raise OptionError(f"{self.name} must be given larger images. Given: {shape} ({reason})") from error

    def _compute(self, few: Dataset, hyper: HyperParameters) -> None:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            network = self.network(tuple(few.inputs.shape[1:]), len(few.classes)).eval()
            preprocessing, inputs = self.preprocessing(few), few.inputs
            network(preprocessing(inputs))
            variation = self.variation(hyper) if hyper.augment else None
            if variation is not None:
                places = torch.arange(len(few))
                inputs = variation(inputs, examples=places, epoch=1, generator=Generator().manual_seed(0))
            if few.images and hyper.is_small(1):
                network(preprocessing(shrink(inputs)))

    def continued(self, start: Start) -> Recipe:
        """Return the recipe for a run that goes on with the network of `start`, a quarter as long, in smaller steps.

        Its gentle end is as long as that of a whole run.
        """
        hyper = self.hyper
        gentler: dict[str, object] = {
            "pretrained": start.name,
            "activation": start.activation,
            "epochs": max(1, hyper.epochs // 4),
            "lr": hyper.lr / 4,
            "lr_schedule": "constant" if hyper.lr_schedule == "constant" else "linear",
            "small_share": 0.0,
            "gentle_share": min(0.75, 4 * hyper.gentle_share),
        }
        if hyper.optimiser == "muon":
            gentler["filter_lr"] = hyper.filter_lr / 4
        return replace(
            self,
            summary=f"{self.summary}, from the network of {start.name}",
            hyper=hyper.override(gentler),
            normalisation=start.normalisation,
            start=start,
        )

    def variation(self, hyper: HyperParameters) -> Augmentation | None:
        """Return the augmentation of a run with `hyper`, gentler in its last epochs if the recipe has a gentler one.

        Distances in pixels grow with `hyper.size`. Augmented images teach a network what to ignore, but are not quite
        those that it will be asked about. Ending on images as they are comes from He et al., "Data Augmentation
        Revisited", https://arxiv.org/abs/1909.09148.

        Raises:
            OptionError: `hyper.gentle_share` is for a recipe that has a gentler augmentation.
        """
        times = hyper.size / (28 if self.style == "mnist" else 32) if hyper.size else 1.0
        augmentation = self.augmentation and scaled(self.augmentation, times)
        if not hyper.gentle_share:
            return augmentation
        if augmentation is None or self.gentle is None:
            raise OptionError(
                f"gentle_share must be 0 with {self.name}, which has no gentler augmentation. "
                f"Given: {hyper.gentle_share}"
            )
        return InTurn(augmentation, until=hyper.epochs - hyper.gentle_epochs, then=scaled(self.gentle, times))

    def calibration_data(self, held_out: Dataset, splits: Iterable[Dataset]) -> tuple[Dataset, int]:
        """Return what temperature, thresholds and prediction sets are set on, and in how many ways it has each example.

        That is what was held out and, of `splits`, those that no run trains on and the recipe gives up for this.
        """
        apart = held_out.with_more([split for split in splits if split.split in self.calibrated_on])
        sent = self.as_sent(apart)
        return sent, len(sent) // len(apart)

    def as_sent(self, data: Dataset) -> Dataset:
        """Return `data` and, if clients may alter images before they send them, a copy of `data` altered so."""
        if self.sent is None:
            return data
        places = torch.arange(len(data), device=data.inputs.device)
        changed = self.sent(data.inputs, examples=places, epoch=1, generator=Generator().manual_seed(0))
        return replace(data, inputs=torch.cat([data.inputs, changed]), labels=data.labels.repeat(2))

    def preprocessing(self, data: Dataset) -> Preprocessing:
        """Build the preprocessing for the network, on the CPU."""
        if self.normalisation is not None:
            mean, deviation = self.normalisation
            if data.inputs.shape[1] < len(mean):  # grey is the mean of three channels
                mean, deviation = (sum(mean) / 3,), (sum(deviation) / 3,)
            return Preprocessing(mean, deviation, images=data.images)
        if not self.standardise:
            return Preprocessing(images=data.images)
        return Preprocessing(*data.moments(), images=data.images)
