"""The hyper-parameters of a run: declared once, here, for recipes, the command line and the manifest.

Knows nothing about torch; `optimisers` and `trainer` apply them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from training.errors import option_error

Beta = Annotated[float, Field(ge=0, lt=1)]

SIZES = (64, 96, 128, 224)
"""The sizes of inputs that networks with global pooling may be given, besides that of the data."""

_ONLY_WITH = {
    "momentum": ("sgd", "muon"),
    "nesterov": ("sgd",),
    "filter_lr": ("muon",),
    "filter_momentum": ("muon",),
    "betas": ("adam", "radam"),
    "eps": ("adam", "radam"),
    "amsgrad": ("adam",),
    "weight_decay": ("sgd", "adam", "muon", "radam", "asgd"),
    "patience": ("sgd", "adam", "muon", "radam", "lbfgs"),  # asgd ends with an average of many epochs
}
"""Hyper-parameters of certain optimisers only; with any other they would have no effect."""


class HyperParameters(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(ge=1, description="Times that every training example is seen.")
    batch_size: int = Field(ge=1, description="Examples in one optimiser step.")
    limit: int = Field(0, ge=0, description="Most batches in an epoch, to try something out; 0 for no limit.")
    optimiser: Literal["sgd", "adam", "muon", "radam", "asgd", "lbfgs"] = Field(
        description="Rule that turns gradients into steps. asgd ends with the average of its second half; lbfgs "
        "computes each batch up to 20 times."
    )
    lr: float = Field(gt=0, allow_inf_nan=False, description="Learning rate: the size of a step.")
    lr_schedule: Literal["constant", "linear", "one_cycle", "warm_restart"] = Field(
        "constant",
        description="constant; linear: from lr at the first step down to 0 after the last; one_cycle: up to lr over "
        "the first fifth of the steps, then down to 0; warm_restart: down to 0 over the first five eighths, then from "
        "half of lr down to 0 again.",
    )
    momentum: float = Field(0.0, ge=0, lt=1, description="SGD and Muon: share of the last step that is kept.")
    nesterov: bool = Field(False, description="SGD: look one step of the momentum ahead; Muon always does.")
    filter_lr: float = Field(
        0.1,
        gt=0,
        allow_inf_nan=False,
        description="Muon: learning rate of convolution filters; lr is that of the rest.",
    )
    filter_momentum: float = Field(0.6, ge=0, lt=1, description="Muon: momentum of convolution filters.")
    weight_decay: float = Field(0.0, ge=0, allow_inf_nan=False, description="L2 penalty on the weights.")
    betas: tuple[Beta, Beta] = Field(
        (0.9, 0.999), description="Adam and RAdam: decay of the averages of the gradient and of its square."
    )
    eps: float = Field(1e-8, gt=0, allow_inf_nan=False, description="Adam and RAdam: added to the denominator.")
    amsgrad: bool = Field(False, description="Adam: keep the largest average of the squared gradient.")
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="Share of the target that is spread evenly over the classes."
    )
    activation: Literal["own", "relu", "sigmoid", "tanh"] = Field(
        "own", description="Function after each hidden layer; own is the network's."
    )
    augment: bool = Field(True, description="Vary the training images as the recipe says, if it does.")
    small_share: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of the epochs, from the first, in which images have 3/4 of their height and width: a "
        "convolution does 0.56 of the work.",
    )
    gentle_share: float = Field(
        0.0, ge=0, lt=1, description="Share of the epochs, to the last, in which images are varied less."
    )
    fit: Literal["stretch", "letterbox", "crop"] = Field(
        "stretch",
        description="How a picture of other proportions becomes an input: stretch it, put it between grey bars, or cut "
        "it to the middle. The model is served in the same way.",
    )
    size: int = Field(
        0,
        description="Pixels a side of the pictures of folder:PATH: 64, 96, 128 or 224, for networks with global "
        "pooling; 0 keeps one size of up to 64 x 64 and makes others 32 x 32.",
    )
    pretrained: str = Field(
        "",
        pattern=r"^[\w.-]*$",
        description="What the run starts from: weights of torchvision's ResNet-18, named as its files are, or a "
        "published version, MODEL-VERSION-DIGEST.",
    )
    start_share: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="With a published version in `pretrained`: its share of the weights, which end as an average of "
        "those at the start and those that were trained.",
    )
    shuffle: bool = Field(True, description="Visit the examples in a new random order every epoch.")
    drop_last: bool = Field(False, description="Leave out the last batch of an epoch when it is not full.")
    seed: int = Field(0, ge=0, lt=2**32, description="Decides the first weights and the order of the examples.")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="Arithmetic of the forward pass; bfloat16 keeps weights and loss in float32. For the CIFAR-10 "
        "recipes `train` chooses bfloat16 where the device has instructions for it.",
    )
    held_out: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of the training examples that are not trained on: each epoch is validated on them, and the "
        "temperature is fitted on them.",
    )
    patience: int = Field(
        0,
        ge=0,
        description="Epochs without a lower validation loss after which the run stops, to keep the best epoch; 0 runs "
        "to the end and keeps the last.",
    )
    temperature: float = Field(
        1.0, gt=0, le=100, description="With held-out 0: what divides the logits, found by a run that held some out."
    )

    @model_validator(mode="after")
    def _each_belongs_to_the_optimiser(self) -> Self:
        for name, optimisers in _ONLY_WITH.items():
            default = type(self).model_fields[name].default
            if self.optimiser not in optimisers and getattr(self, name) != default:
                raise ValueError(
                    f"{name} must be given with the optimiser {' or '.join(optimisers)}. Given: {getattr(self, name)} "
                    f"with {self.optimiser}"
                )
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov must be given with a momentum above 0. Given: momentum 0")
        if self.size not in (0, *SIZES):
            raise ValueError(f"size must be 0, {', '.join(map(str, SIZES[:-1]))} or {SIZES[-1]}. Given: {self.size}")
        if self.patience and not self.held_out:
            raise ValueError(f"patience must be given with held_out above 0. Given: {self.patience} with 0")
        if self.held_out and self.temperature != 1.0:
            raise ValueError(
                f"temperature must be given with held_out 0, else it is fitted. Given: {self.temperature} "
                f"with {self.held_out}"
            )
        return self

    def override(self, given: dict[str, Any]) -> HyperParameters:
        """Return a copy with the values in `given`, which may be text.

        Raises:
            OptionError: a value is out of bounds, or does not belong to the optimiser.
        """
        optimiser = given.get("optimiser", self.optimiser)
        kept = {k: v for k, v in self.model_dump().items() if optimiser in _ONLY_WITH.get(k, (optimiser,))}
        if "held_out" in given and "temperature" not in given:
            del kept["temperature"]  # it belonged to the other choice
        try:
            return HyperParameters.model_validate(kept | given)
        except ValidationError as error:
            raise option_error(error) from error

    def effective(self) -> dict[str, JsonValue]:
        """Return the values that this optimiser uses, except the seed, as JSON for the manifest."""
        values: dict[str, JsonValue] = self.model_dump(mode="json", exclude={"seed"})
        return {k: v for k, v in values.items() if self.optimiser in _ONLY_WITH.get(k, (self.optimiser,))}

    def is_small(self, epoch: int) -> bool:
        """Return whether `epoch`, counted from 1, uses smaller images."""
        return epoch <= self.small_share * self.epochs

    @property
    def gentle_epochs(self) -> int:
        """The number of final epochs that vary their images less."""
        return int(self.gentle_share * self.epochs)

    def iterations(self, examples: int) -> int:
        """Return the optimiser steps in an epoch over `examples`, including a partial batch unless it is dropped."""
        whole = examples // self.batch_size if self.drop_last else -(-examples // self.batch_size)
        return min(whole, self.limit) if self.limit else whole
