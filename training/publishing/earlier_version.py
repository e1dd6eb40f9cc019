"""The network of a version that was published earlier, taken back out of its artifact so that training goes on with it.

Knows nothing about recipes. An artifact is frozen: batch norms are part of the convolutions before them, and have to be
measured again before they can be trained.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from service.contract.manifest import ModelManifest
from service.contract.registry import Registry, RegistryError
from training.data.dataset import Dataset
from training.errors import OptionError
from training.hyper_parameters import HyperParameters
from training.networks.preprocessing import Preprocessing
from training.publishing.destination import open_registry
from training.publishing.export import LOGIT_TOLERANCE, Layer, features_of, layers_of
from training.publishing.publish import input_spec

logger = logging.getLogger(__name__)

CPU = torch.device("cpu")


def is_version(place: str) -> bool:
    """Return whether `place` may be the folder of a version, REGISTRY/MODEL/VERSION, rather than a file."""
    return "://" in place or Path(place).is_dir()


def read(place: str) -> EarlierVersion:
    """Read and verify the version in the folder `place`, in a registry on disk or in a bucket.

    Raises:
        OptionError: there is no such version, or it is damaged.
    """
    url, model, version = (["", "", *place.rstrip("/").rsplit("/", 2)])[-3:]
    if not version.isdecimal() or not model:
        raise OptionError(f"pretrained must be REGISTRY/MODEL/VERSION, such as models/mnist/6. Given: {place}")
    try:
        registry: Registry = open_registry(url or ".")
        manifest = registry.manifest(model, int(version))
        return EarlierVersion(manifest, registry.artifact(manifest))
    except RegistryError as error:
        raise OptionError(f"pretrained must be a version that can be read. Given: {error}") from error


@dataclass(frozen=True)
class EarlierVersion:
    """A published version whose network training goes on with."""

    manifest: ModelManifest
    artifact: bytes

    @property
    def name(self) -> str:
        """How manifests name it: model, version and the beginning of the artifact's sha256."""
        return f"{self.manifest.name}-{self.manifest.version}-{self.manifest.artifact.sha256[:8]}"

    @property
    def place(self) -> str:
        """Where it lies in any registry, as on the command line."""
        return f"REGISTRY/{self.manifest.name}/{self.manifest.version}"

    @cached_property
    def _layers(self) -> list[Layer]:
        return layers_of(self.artifact)

    @property
    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel or feature, by which the artifact normalises."""
        of_kind = {layer.kind: layer.tensors[0] for layer in reversed(self._layers) if layer.kind in ("mul_", "sub_")}
        scale, shift = of_kind["mul_"], of_kind.get("sub_")
        assert scale is not None  # noqa: S101 - for the type checker
        unit = 255.0 if self.manifest.input.kind == "image" else 1.0
        deviation = 1.0 / (unit * scale.double().flatten())
        mean = torch.zeros_like(deviation) if shift is None else shift.double().flatten() * deviation
        return tuple(mean.tolist()), tuple(deviation.tolist())

    @property
    def activation(self) -> str:
        """The activation that took the place of the network's own, or "own"."""
        return str(self.manifest.provenance.hyper_parameters.get("activation", "own"))

    def expect(self, data: Dataset, hyper: HyperParameters) -> None:
        """Raise OptionError if a run on `data` cannot go on from this version, or would be measured on what it learnt.

        Other data may contain what this version was trained on, which nobody can tell from here: a warning says so.
        """
        theirs, ours = self.manifest.classes, data.classes
        if theirs != ours:
            raise OptionError(f"pretrained must be a version with the classes {_short(ours)}. Given: {_short(theirs)}")
        spec, own = input_spec(data), self.manifest.input
        if (spec.kind, spec.shape) != (own.kind, own.shape):
            raise OptionError(
                f"pretrained must be a version for {spec.kind} inputs of {list(spec.shape)}. "
                f"Given: {own.kind} inputs of {list(own.shape)}"
            )
        origin = self.manifest.provenance
        if origin.dataset_digest != data.digest:
            logger.warning(
                "%s may have been trained on examples that this run holds out or tests on: figures may be too good",
                self.name,
            )
            return
        held_out = origin.hyper_parameters.get("held_out", 0.0)
        if hyper.held_out and hyper.held_out != held_out:
            raise OptionError(
                f"held_out must be {held_out}, as {self.name} held out: it was trained on others of these examples. "
                f"Given: {hyper.held_out}"
            )

    def put_into(self, network: nn.Module, preprocessing: Preprocessing, inputs: Tensor) -> None:
        """Give `network` this version's weights; `inputs`, raw ones of the training data, settle its batch norms.

        Raises:
            OptionError: the network is another one.
        """
        try:
            self._restore(network, preprocessing(inputs))
        except (RuntimeError, StopIteration) as error:
            raise self._other_network(str(error).partition("\n")[0] or "fewer layers") from error
        few = inputs[:256]
        with torch.no_grad():
            given = network.eval()(preprocessing(few))
        network.train()
        expected = features_of(self.artifact, few, CPU).logits
        if given.shape[1] == 1:  # one raw logit z stands for the classes [0, z]
            given, expected = given[:, 0], expected[:, 1] - expected[:, 0]
        difference = (given - expected).abs().max().item()
        if not difference <= LOGIT_TOLERANCE:
            raise self._other_network(f"logits that differ by up to {difference:.2g}")

    def _other_network(self, found: str) -> OptionError:
        return OptionError(f"pretrained must be a version with the recipe's network. Given: {self.name} ({found})")

    @torch.no_grad()
    def _restore(self, network: nn.Module, inputs: Tensor) -> None:
        layers = iter([layer for layer in self._layers if layer.kind not in ("mul_", "sub_")])
        inside: list[nn.BatchNorm2d] = []
        folded: Tensor | None = None
        own: tuple[Tensor | None, ...]
        for module in _in_order(network, inputs[:2]):
            if isinstance(module, nn.BatchNorm2d):
                if folded is None:
                    given = _next(layers, "batch_norm")
                    own = (module.weight, module.bias, module.running_mean, module.running_var)
                else:
                    given = (folded, torch.zeros_like(folded), torch.full_like(folded, 1 - module.eps))
                    own = (module.bias, module.running_mean, module.running_var)
                    module.weight.fill_(1.0)
                    inside.append(module)
                folded = None
            else:
                given = _next(layers, "linear" if isinstance(module, nn.Linear) else "conv2d")
                own = (module.weight, module.bias)
                if module.bias is None:
                    folded, own, given = given[1], own[:1], given[:1]
            for parameter, tensor in zip(own, given, strict=True):
                _copy(parameter, tensor)
        if next(layers, None) is not None or folded is not None:
            raise RuntimeError("more layers")
        _measure(network.eval(), inside, inputs)


_Layer = nn.Conv2d | nn.Linear | nn.BatchNorm2d


def _in_order(network: nn.Module, inputs: Tensor) -> list[_Layer]:
    """Return the layers with weights in the order in which `network` computes them."""
    called: list[_Layer] = []
    hooks = [
        module.register_forward_hook(lambda module, *_: called.append(module))
        for module in network.modules()
        if isinstance(module, _Layer)
    ]
    network.eval()(inputs)
    for hook in hooks:
        hook.remove()
    return called


def _next(layers: Iterator[Layer], kind: str) -> tuple[Tensor | None, ...]:
    layer = next(layers)
    if layer.kind != kind:
        raise RuntimeError(f"a {layer.kind} in place of a {kind}")
    return layer.tensors


def _copy(parameter: Tensor | None, tensor: Tensor | None) -> None:
    if parameter is None or tensor is None or parameter.shape != tensor.shape:
        shapes = ("none" if each is None else list(each.shape) for each in (tensor, parameter))
        raise RuntimeError("a layer of {} in place of {}".format(*shapes))
    parameter.copy_(tensor)


def _measure(network: nn.Module, norms: list[nn.BatchNorm2d], inputs: Tensor) -> None:
    """Give batch norms that do nothing the averages of what reaches them, and keep what they compute.

    In training they subtract each batch's mean and divide by its deviation, so that their bias and their scale, if they
    have one that is trained, must put both back.
    """
    seen: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {norm: [] for norm in norms}

    def see(norm: nn.Module, given: tuple[Tensor]) -> None:
        seen[norm].append((given[0].mean((0, 2, 3)), given[0].var((0, 2, 3))))

    hooks = [norm.register_forward_pre_hook(see) for norm in norms]
    for batch in inputs.split(250):
        network(batch)
    for hook in hooks:
        hook.remove()
    for norm in norms:
        mean, variance = (torch.stack(part).mean(0) for part in zip(*seen[norm], strict=True))
        norm.running_mean.copy_(mean)  # type: ignore[union-attr]
        norm.bias.add_(mean)
        if norm.weight.requires_grad:
            norm.running_var.copy_(variance)  # type: ignore[union-attr]
            norm.weight.copy_((variance + norm.eps).sqrt())


def _short(classes: tuple[str, ...]) -> str:
    return ", ".join(classes[:10]) + (f" and {len(classes) - 10} more" if len(classes) > 10 else "")
