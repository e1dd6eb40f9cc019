"""From a batch to the gradient of every weight: by autograd, or in closed form where the network is a plain chain.

Knows nothing about optimisers. The eight products of a step of `neural_net` take 0.55 ms, and autograd's bookkeeping
around them 0.3 ms more (one thread of an AMD EPYC, torch 2.14); the chain rule, written out, needs none.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from training.hyper_parameters import HyperParameters
from training.networks.logits import class_logits
from training.networks.tutorials import Chain


class Gradients(Protocol):
    """Leaves the gradient of the summed cross-entropy, divided by `n`, in every weight that is to be trained.

    It gives the float32 [N, K] logits of what it got: a batch of `n` examples, or a part of one.
    """

    def __call__(self, inputs: Tensor, labels: Tensor, *, n: int) -> Tensor: ...


def gradients_of(network: nn.Module, hyper: HyperParameters, device: torch.device) -> Gradients:
    """The quicker way there is for `network`, which is on `device`."""
    trained = all(weight.requires_grad for weight in network.parameters())
    if isinstance(network, Chain) and trained and hyper.precision == "float32":
        return WrittenOut(network, hyper)
    return Autograd(network, hyper, device)


class Autograd:
    """The gradients of any network."""

    def __init__(self, network: nn.Module, hyper: HyperParameters, device: torch.device) -> None:
        self._network = network
        self._weights = [weight for weight in network.parameters() if weight.requires_grad]
        self._smoothing = hyper.label_smoothing
        self._autocast = torch.autocast(device.type, torch.bfloat16, enabled=hyper.precision == "bfloat16")

    def __call__(self, inputs: Tensor, labels: Tensor, *, n: int) -> Tensor:
        for weight in self._weights:
            weight.grad = None
        with self._autocast:
            logits = self._network(inputs)
        logits = class_logits(logits.float())
        loss = cross_entropy(logits, labels, label_smoothing=self._smoothing, reduction="sum")
        (loss / n).backward()  # type: ignore[no-untyped-call]
        return logits.detach()


class WrittenOut:
    """The gradients of a chain of Flatten, Linear, ReLU and Sigmoid, by the products that autograd would compute."""

    def __init__(self, chain: Chain, hyper: HyperParameters) -> None:
        self._links = [_link(layer) for layer in chain.chain() if not isinstance(layer, nn.Flatten)]
        self._backwards = list(reversed(list(enumerate(self._links))))
        bias = list(chain.parameters())[-1]
        self._one_logit, classes = len(bias) == 1, max(2, len(bias))
        smoothing = hyper.label_smoothing
        self._targets = torch.eye(classes, device=bias.device) * (1 - smoothing) + smoothing / classes

    def __call__(self, inputs: Tensor, labels: Tensor, *, n: int) -> Tensor:
        with torch.no_grad():
            values = inputs.flatten(1)
            for link in self._links:
                values = link.forward(values)
            logits = class_logits(values)
            gradient = logits.softmax(1).sub_(self._targets.index_select(0, labels)).div_(n)
            if self._one_logit:
                gradient = gradient[:, 1:]  # it is the second class's; the first one's is 0
            for place, link in self._backwards:
                gradient = link.backward(gradient, first=place == 0)
            return logits


class _Linear:
    """A linear layer. Its gradients always lie in the same memory, which so stays in the cache."""

    def __init__(self, layer: nn.Linear) -> None:
        layer.weight.grad, layer.bias.grad = torch.zeros_like(layer.weight), torch.zeros_like(layer.bias)
        self._weight, self._bias = layer.weight.detach(), layer.bias.detach()
        self._transposed = self._weight.t()
        self._of_weight, self._of_bias = layer.weight.grad, layer.bias.grad

    def forward(self, inputs: Tensor) -> Tensor:
        self._inputs = inputs
        return torch.addmm(self._bias, inputs, self._transposed)

    def backward(self, gradient: Tensor, *, first: bool) -> Tensor:
        torch.mm(gradient.t(), self._inputs, out=self._of_weight)
        torch.sum(gradient, 0, out=self._of_bias)
        return gradient if first else gradient @ self._weight  # nobody asks for that of the images


class _Sigmoid:
    def forward(self, inputs: Tensor) -> Tensor:
        self._outputs = inputs.sigmoid_()
        return self._outputs

    def backward(self, gradient: Tensor, *, first: bool) -> Tensor:  # noqa: ARG002
        result: Tensor = torch.ops.aten.sigmoid_backward.default(gradient, self._outputs)
        return result


class _ReLU:
    def forward(self, inputs: Tensor) -> Tensor:
        self._outputs = inputs.relu_()
        return self._outputs

    def backward(self, gradient: Tensor, *, first: bool) -> Tensor:  # noqa: ARG002
        result: Tensor = torch.ops.aten.threshold_backward.default(gradient, self._outputs, 0)
        return result


def _link(layer: nn.Module) -> _Linear | _Sigmoid | _ReLU:
    if isinstance(layer, nn.Linear):
        return _Linear(layer)
    if isinstance(layer, nn.Sigmoid):
        return _Sigmoid()
    if isinstance(layer, nn.ReLU):
        return _ReLU()
    raise TypeError(f"a layer of a chain must be Flatten, Linear, ReLU or Sigmoid. Given: {type(layer).__name__}")
