"""The recipes: networks, their data, hyper-parameters and expected accuracy.

They are values; nothing is built or read before `pipeline.run`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from torch import Generator, Tensor, nn

from training.data.augmentation import (
    AlternatingFlip,
    Augmentation,
    Chain,
    Cutout,
    Deform,
    InTurn,
    Jpeg,
    OneOf,
    Translate,
    scaled,
    shrink,
)
from training.data.dataset import Dataset
from training.data.degradation import Blur, Haze, Light, Noise, Scatter
from training.data.trivial_augment import TrivialAugment
from training.errors import OptionError
from training.hyper_parameters import HyperParameters
from training.learning.device import has_bfloat16
from training.networks.activations import replace_activations
from training.networks.digit_net import DigitNet
from training.networks.preprocessing import Preprocessing
from training.networks.residual_net import ResidualNet
from training.networks.resnet import ResNet
from training.networks.tutorials import NeuralNet, SimpleNet, SimpleNN, Xigua
from training.networks.weights import Weights
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

    def expect(self, data: Dataset, hyper: HyperParameters) -> None:
        """Raise OptionError if the network cannot learn from `data` with `hyper`, whatever the reason."""
        kind = "images" if data.images else "features"
        if kind not in self.takes:
            others = ", ".join(recipe.name for recipe in RECIPES.values() if kind in recipe.takes)
            raise OptionError(
                f"{self.name} must be given {self.takes[0]}. Given: {data.name}, which has {kind}; use one of {others}"
            )
        if hyper.size and not self.pools:
            others = ", ".join(recipe.name for recipe in RECIPES.values() if recipe.pools)
            raise OptionError(f"size must be given with one of {others}, which pool globally. Given: {self.name}")
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
        """Run a fresh network on a few examples as training and serving will, without an effect on chance."""
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

    def expect_photographs(self) -> None:
        """Raise OptionError if the recipe is for anything but photographs."""
        if self.style != "photo" or "images" not in self.takes:
            others = ", ".join(recipe.name for recipe in RECIPES.values() if recipe.style == "photo" and recipe.pools)
            raise OptionError(f"pretrained must be given with a recipe for photographs: {others}. Given: {self.name}")

    def pretrained(self, weights: Weights) -> Recipe:
        """Return the recipe for the same data with a network that starts from `weights`."""
        return replace(
            self,
            summary=f"ResNet-18, from the weights {weights.name}",
            network=lambda shape, classes: ResNet(classes, weights.tensors),  # noqa: ARG005
            hyper=_FINE_TUNING.override({"pretrained": weights.name}),
            standardise=False,
            normalisation=_IMAGENET,
            augmentation=_SNAPSHOTS,
            gentle=None,
            pools=True,
            bfloat16_pays=False,
        )

    def continued(self, start: Start) -> Recipe:
        """Return the recipe for a run that goes on with the network of `start`: a quarter as long, in smaller steps."""
        hyper = self.hyper
        gentler: dict[str, object] = {
            "pretrained": start.name,
            "epochs": max(1, hyper.epochs // 4),
            "lr": hyper.lr / 4,
            "lr_schedule": "constant" if hyper.lr_schedule == "constant" else "linear",
            "small_share": 0.0,
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


def find(name: str) -> Recipe:
    """Return the recipe `name`.

    Raises:
        OptionError: there is none.
    """
    if name not in RECIPES:
        raise OptionError(f"recipe must be one of {', '.join(RECIPES)}. Given: {name!r}")
    return RECIPES[name]


_DIGITS = HyperParameters(
    epochs=16,
    batch_size=125,
    optimiser="muon",
    lr=0.05,
    momentum=0.9,
    weight_decay=1e-4,
    filter_lr=0.05,
    filter_momentum=0.8,
    lr_schedule="linear",
    label_smoothing=0.05,
    drop_last=True,
    held_out=0.02,
    small_share=0.6,
)

# airbench94's, for batches half as large and the mean of their losses where airbench has the sum.
_PHOTOS = HyperParameters(
    epochs=32,
    batch_size=1000,
    optimiser="muon",
    lr=35.0,
    momentum=0.9,
    weight_decay=4e-5,
    filter_lr=0.17,
    filter_momentum=0.7,
    lr_schedule="warm_restart",  # after five eighths: 20 epochs, of which 12 see small images
    label_smoothing=0.2,
    drop_last=True,
    held_out=0.02,
    small_share=0.375,
)
# Wide ranges, because they cost little: on 6,000 held-out images, after 4 epochs, see docs/training.md.
_POOR_PICTURES = (Noise(0.4, share=0.3), Light(0.04, lightest=0.6), Haze(3.0), Scatter(2.0), Blur(1.2))
_GRAIN = Noise(0.25, share=0.2)  # three kinds of noise in one, so twice as often as each of the others
_POOR_PHOTOS = (_GRAIN, _GRAIN, Light(0.15, lightest=0.3), Haze(1.5), Scatter(1.5), Blur(1.0))
_HANDWRITING = Deform(degrees=7, stretch=0.07, slant=0.12, move=1.2, bend=0.7)
_NEAT_HANDWRITING = Deform(degrees=3.5, stretch=0.035, slant=0.06, move=0.6, bend=0.35)
_SNAPSHOTS = Chain((AlternatingFlip(), Translate(2), Jpeg(share=0.25)))
_MANY_SNAPSHOTS = Chain(  # for a run that overfits
    (AlternatingFlip(), Translate(3), OneOf(_POOR_PHOTOS, share=0.4), Jpeg(share=0.5), Cutout(8))
)
_ALL_SNAPSHOTS = Chain(  # for one that is long
    (
        AlternatingFlip(),
        Translate(3),
        TrivialAugment(),
        OneOf(_POOR_PHOTOS, share=0.25),
        Jpeg(share=0.5),
        Cutout(8),
    )
)
_GENTLE_SNAPSHOTS = Chain((AlternatingFlip(), Translate(3), OneOf(_POOR_PHOTOS, share=0.25), Jpeg(share=0.5)))
_COMPRESSED = Jpeg(share=1.0)
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # as torchvision's weights expect
_FINE_TUNING = HyperParameters(
    epochs=12,
    batch_size=32,
    optimiser="sgd",
    lr=0.01,
    momentum=0.9,
    nesterov=True,
    weight_decay=1e-4,
    lr_schedule="one_cycle",
    label_smoothing=0.1,
    held_out=0.1,
    drop_last=True,
    size=224,
)
_SGD = HyperParameters(epochs=1, batch_size=64, optimiser="sgd", lr=0.01)


def _neural_net(shape: tuple[int, ...], classes: int) -> nn.Module:
    return NeuralNet(math.prod(shape), classes)


_ALL = (
    Recipe(
        name="simple_nn",
        summary="784-128-10, ReLU",
        network=lambda shape, classes: SimpleNN(math.prod(shape), 128, classes),
        data="mnist",
        hyper=_SGD.override({"epochs": 5}),
        expected=0.90,
        style="mnist",
        takes=("images", "features"),
        threads=1,
    ),
    Recipe(
        name="simple_net",
        summary="2-10-1, ReLU, one logit",
        network=lambda shape, classes: SimpleNet(math.prod(shape), 10, 1 if classes == 2 else classes),
        data="moons",
        hyper=HyperParameters(epochs=100, batch_size=50, optimiser="adam", lr=0.01),
        expected=0.95,
        standardise=True,
        takes=("features",),
        threads=1,
    ),
    Recipe(
        name="net",
        summary="784-256-10, ReLU",
        network=lambda shape, classes: SimpleNN(math.prod(shape), 256, classes),
        data="mnist",
        hyper=_SGD.override({"epochs": 2, "batch_size": 32}),
        expected=0.90,
        style="mnist",
        takes=("images", "features"),
        threads=1,
    ),
    Recipe(
        name="neural_net_sgd",
        summary="784-128-256-10, sigmoid",
        network=_neural_net,
        data="mnist",
        # The tutorial's first run; its author saw 23.73 % after this one epoch. SGD moves two sigmoids slowly.
        hyper=_SGD.override({"shuffle": False}),
        expected=0.10,
        style="mnist",
        takes=("images", "features"),
        threads=1,
    ),
    Recipe(
        name="neural_net_sgd_lr1",
        summary="784-128-256-10, sigmoid",
        network=_neural_net,
        data="mnist",
        hyper=_SGD.override({"shuffle": False, "lr": 1.0, "epochs": 10}),
        expected=0.95,
        style="mnist",
        takes=("images", "features"),
        threads=1,
    ),
    Recipe(
        name="neural_net",
        summary="784-128-256-10, sigmoid",
        network=_neural_net,
        data="mnist",
        # The tutorial keeps lr constant. Decaying it was chosen on 5,000 held-out training images, never on the test
        # images: 98.3 % against 97.4 % (mean, n=5 seeds each). `--lr-schedule constant` is the tutorial's own run.
        hyper=HyperParameters(epochs=10, batch_size=64, optimiser="adam", lr=0.01, lr_schedule="linear", held_out=0.1),
        expected=0.97,
        style="mnist",
        takes=("images", "features"),
        # A second thread saves 10 % on two idle cores; where another process wants one, the threads wait for each
        # other at every small product: 54 s an epoch in place of 1.4 s.
        threads=1,
    ),
    Recipe(
        name="mnist",
        summary="5 convolutions, 24-24-48-48-96",
        network=lambda shape, classes: DigitNet(shape[0], classes),
        data="mnist",
        # 3 of 16 epochs are gentle. What is held out sets prediction sets, whose coverage scatters by 0.3 points then.
        hyper=_DIGITS.override({"gentle_share": 0.1875, "held_out": 0.1}),
        expected=0.995,
        expected_corrupted=0.95,
        style="mnist",
        standardise=True,
        pools=True,
        augmentation=Chain((_HANDWRITING, OneOf(_POOR_PICTURES, share=0.35))),
        gentle=Chain((_NEAT_HANDWRITING, OneOf(_POOR_PICTURES, share=0.25))),
    ),
    Recipe(
        name="mnist_fast",
        summary="5 convolutions, 16-16-24-24-48",
        network=lambda shape, classes: DigitNet(shape[0], classes, (16, 24, 48)),
        data="mnist",
        hyper=_DIGITS.override({"epochs": 1, "augment": False}),
        expected=0.988,
        style="mnist",
        standardise=True,
        pools=True,
        augmentation=_HANDWRITING,
    ),
    Recipe(
        name="xigua",
        summary="3 convolutions 5 x 5, 32-32-64, linear 64",
        network=Xigua,
        data="cifar10",
        splits=("holdout", "test-jpeg"),
        hyper=_SGD.override({"epochs": 5, "batch_size": 16, "held_out": 0.05}),
        expected=0.50,
    ),
    Recipe(
        name="cifar10",
        summary="whitening, 6 convolutions, 128-256-256",
        network=lambda shape, classes: WhitenedNet(shape[0], classes, (128, 256, 256)),
        data="cifar10",
        splits=("holdout", "test-jpeg"),
        calibrated_on=("holdout",),
        hyper=_PHOTOS,
        expected=0.93,
        standardise=True,
        pools=True,
        augmentation=_MANY_SNAPSHOTS,
        sent=_COMPRESSED,
        bfloat16_pays=True,
    ),
    Recipe(
        name="cifar10_fast",
        summary="whitening, 6 convolutions, 64-256-256",
        network=lambda shape, classes: WhitenedNet(shape[0], classes, (64, 256, 256)),
        data="cifar10",
        splits=("holdout", "test-jpeg"),
        calibrated_on=("holdout",),
        # Airbench's network, and as many epochs as twelve minutes hold at 770 images/s: what two cores are expected to
        # compute of it when they have instructions for bfloat16.
        hyper=_PHOTOS.override({"epochs": 14, "lr_schedule": "linear", "small_share": 0.5}),
        expected=0.92,
        standardise=True,
        pools=True,
        augmentation=_SNAPSHOTS,
        sent=_COMPRESSED,
        bfloat16_pays=True,
    ),
    Recipe(
        name="cifar10_residual",
        summary="wide residual network of 16 layers, 56-120-256",
        network=lambda shape, classes: ResidualNet(shape[0], classes),
        data="cifar10",
        splits=("holdout", "test-jpeg"),
        calibrated_on=("holdout",),
        # The optimiser of ResNet-9 in Page, "How to train your ResNet", 2018 (batches of 512, rate 0.4, decay 5e-4),
        # for more epochs and stronger augmentation. Never trained to its end yet: `expected` is what it must reach.
        hyper=HyperParameters(
            epochs=120,
            batch_size=500,
            optimiser="sgd",
            lr=0.4,
            momentum=0.9,
            nesterov=True,
            weight_decay=5e-4,
            lr_schedule="one_cycle",
            label_smoothing=0.1,
            drop_last=True,
            held_out=0.02,
            small_share=0.25,
            gentle_share=0.1,
        ),
        expected=0.945,
        standardise=True,
        pools=True,
        augmentation=_ALL_SNAPSHOTS,
        gentle=_GENTLE_SNAPSHOTS,
        sent=_COMPRESSED,
        bfloat16_pays=True,
    ),
)

RECIPES = {recipe.name: recipe for recipe in _ALL}
