"""Export of a network as an artifact: TorchScript bytes with preprocessing and score inside, and its check.

The only module of training that makes TorchScript. It is run by `service.model.torchscript`, so that a check of an
artifact holds for the code that will serve it.
"""

from __future__ import annotations

import copy
import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from service.contract.variants import FormName
from service.model import torchscript
from training.errors import TrainingError
from training.networks.logits import class_logits
from training.networks.preprocessing import Preprocessing
from training.publishing.evaluate import logits_of
from training.publishing.outliers import Features, OutlierScore, join
from training.publishing.sharpening import Sharpening

LOGIT_TOLERANCE = 1e-3
"""Largest absolute difference of a logit between the network and its artifact, or the artifact elsewhere."""

BATCH_SIZES = (1, 7, 256)
"""What the service sends: one request alone, a few together, a full batch."""


Tapped = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
"""An artifact that returns logits, and the means and mean squares of a feature map's channels."""


class Exported(nn.Module):
    """The published module: uint8 [N, C, H, W] or float32 [N, F] in, float32 [N, K] logits out, K at least 2."""

    def __init__(self, preprocessing: Preprocessing, network: nn.Module) -> None:
        super().__init__()
        self.preprocessing = preprocessing
        self.network = network

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = class_logits(self.network(self.preprocessing(inputs)).float())
        return logits


def export(model: Exported) -> bytes:
    """Script and freeze a copy of `model`, on the CPU and in evaluation mode; `model` itself stays as it was."""
    with torchscript.without_deprecations(), torch.no_grad():
        return _saved(torch.jit.script(copy.deepcopy(model).cpu().eval()))


class _WithScores(nn.Module):
    """An artifact's logits, and a score made of them and of a feature map's moments."""

    def __init__(self, tapped: Tapped, score: nn.Module, sharpen: nn.Module) -> None:
        super().__init__()
        self.tapped = tapped
        self.score = score
        self.sharpen = sharpen

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        logits, mean, square = self.tapped(inputs)
        return self.sharpen(logits), self.score(logits, mean, square)


def with_scores(artifact: bytes, score: OutlierScore, sharpening: Sharpening | None = None) -> bytes:
    """Give an artifact a second output, float32 [N], and sharpen its logits if told to.

    What it computes otherwise stays as it was; of what it was given so before, nothing stays.
    """
    with torchscript.without_deprecations(), torch.no_grad():
        tapped = _tapped(artifact, torch.device("cpu"))
        module = _WithScores(tapped, score.cpu(), sharpening or nn.Identity())
        return _saved(torch.jit.script(module.eval()))


def features_of(artifact: bytes, inputs: Tensor, device: torch.device, *, batch_size: int = 256) -> Features:
    """Return what `with_scores` would make a score of, for all `inputs`, on the CPU."""
    with torchscript.without_deprecations(), torch.no_grad():
        tapped = _tapped(artifact, device)
        parts = (tapped(batch.to(device)) for batch in torch.split(inputs, batch_size))
        return join([Features(*(output.float().cpu() for output in part)) for part in parts])


@dataclass(frozen=True)
class Layer:
    """What an artifact holds of one layer: its kind in the graph, and its tensors in the layer's own order."""

    kind: Literal["conv2d", "linear", "batch_norm", "mul_", "sub_"]
    tensors: tuple[Tensor | None, ...]


def layers_of(artifact: bytes) -> list[Layer]:
    """Return the layers of the network in an artifact, in the order of computing, on the CPU.

    First what the preprocessing multiplies by and subtracts. Freezing has put batch norms into the convolutions just
    before them.
    """
    with torchscript.without_deprecations():
        graph = torch.jit.load(io.BytesIO(artifact), map_location="cpu").graph.copy()
    _drop_scores(graph)
    layers = []
    for node in graph.nodes():
        kind = node.kind().removeprefix("aten::")
        if kind in _CONSTANTS:
            first, last = _CONSTANTS[kind]
            constants = [value.toIValue() for value in list(node.inputs())[first:last]]
            layers.append(Layer(kind, tuple(None if value is None else value.clone() for value in constants)))
    return layers


_CONSTANTS = {"conv2d": (1, 3), "linear": (1, 3), "batch_norm": (1, 5), "mul_": (1, 2), "sub_": (1, 2)}
"""Which inputs of a node are the layer's tensors."""


def _saved(scripted: torch.jit.ScriptModule) -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.freeze(scripted), buffer)
    return _without_sources(buffer.getvalue())


def _tapped(artifact: bytes, device: torch.device) -> Tapped:
    """Return an artifact as a function that also gives a feature map's means and mean squares, [N, C] each.

    The map is found in the frozen graph, so that this works for any network, also for one that was published earlier.
    A pass for the deviations takes torch 30 times as long as one for the mean squares.
    """
    module = torch.jit.load(io.BytesIO(artifact), map_location=device)
    graph = module.graph.copy()
    _drop_scores(graph)
    tap = _feature_map(graph)
    if tap is None:
        graph.setInsertPoint(graph.return_node())
        moments = [graph.insertConstant(torch.empty(0, 0, device=device))] * 2
    else:
        value, layer = tap
        graph.setInsertPoint(layer)
        moments = [_mean(graph, value), _mean(graph, _insert(graph, "aten::mul", [value, value]))]
    for moment in moments:
        graph.registerOutput(moment)
    graph.makeMultiOutputIntoTuple()
    graph.eraseInput(0)  # the module itself: a frozen graph holds its weights
    graph.lint()
    function: Tapped = torch._C._create_function_from_graph("tapped", graph)
    return function


def _drop_scores(graph: Any) -> None:
    """Leave of the graph what computes the network's logits, if `with_scores` has added to it."""
    outputs = graph.return_node().inputsAt(0).node()
    if outputs.kind() != "prim::TupleConstruct":
        return
    logits = outputs.inputsAt(0)
    last = logits.node()
    if last.kind() == "aten::mul" and last.inputsAt(1).node().kind() == "aten::exp":  # sharpened
        logits = last.inputsAt(0)
    graph.eraseOutput(0)
    graph.registerOutput(logits)
    torch._C._jit_pass_dce(graph)


def _feature_map(graph: Any) -> tuple[Any, Any] | None:
    """Return the feature map in the middle, of those that convolutions take, and the layer that takes it.

    None in a network of linear layers alone: a Gaussian over the input of one costs as much as the layer.
    """
    taken = [(node.inputsAt(0), node) for node in graph.nodes() if node.kind() == "aten::conv2d"][1:]
    return taken[(len(taken) - 1) // 2] if taken else None


def _mean(graph: Any, value: Any) -> Any:
    """Insert the mean of each channel of a feature map, [N, C, H, W] to [N, C]."""
    return _insert(graph, "aten::mean", [value, *map(graph.insertConstant, ([2, 3], False, None))])


def _insert(graph: Any, kind: str, values: list[Any]) -> Any:
    output = graph.insertNode(graph.create(kind, values, 1)).output()
    output.setType(torch._C.TensorType.get())
    return output


class On(nn.Module):
    """A function computed on `device`, for inputs on any device; its outputs are on the device of the inputs."""

    def __init__(self, compute: Callable[[Tensor], Tensor], device: torch.device) -> None:
        super().__init__()
        self.compute = compute
        self.device = device

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = self.compute(inputs.to(self.device))
        return outputs.float().to(inputs.device)


def load(artifact: bytes, device: torch.device, form: FormName | Literal["published"] = "published") -> nn.Module:
    """Load the classifier in `artifact` on `device`, as the service will compute it; inputs may be elsewhere."""
    network = torchscript.load(artifact, device, form)
    return On(lambda inputs: network.run(inputs)[0], device)


def load_columns(
    artifact: bytes, device: torch.device, form: FormName | Literal["published"] = "published"
) -> nn.Module:
    """Load an artifact likewise, with its outlier scores, if it has any, as one more column beside the logits."""
    return On(torchscript.load(artifact, device, form), device)


def check(model: nn.Module, artifact: nn.Module, inputs: Tensor) -> None:
    """Compare network and loaded artifact on all `inputs`, in batches of 1, 7 and 256.

    Raises:
        TrainingError: a class differs for any input, or a logit by more than LOGIT_TOLERANCE.
    """
    expected = logits_of(model, inputs)
    for batch_size in BATCH_SIZES:
        given = logits_of(artifact, inputs, batch_size=batch_size)
        difference = (given - expected).abs().max().item()
        differing = int((given.argmax(1) != expected.argmax(1)).sum())
        if differing or not difference <= LOGIT_TOLERANCE:  # "not <=" refuses NaN too
            raise TrainingError(
                f"the exported model must give the network's classes and its logits to within {LOGIT_TOLERANCE:g}. "
                f"Given: {differing} of {len(inputs):,} classes differ and logits by up to {difference:.2g}, in "
                f"batches of {batch_size}. Nothing was published."
            )


def _without_sources(artifact: bytes) -> bytes:
    """Remove the artifact's debug records, which name every source file with its path on this machine."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(artifact)) as whole, zipfile.ZipFile(buffer, "w") as rest:
        for record in whole.infolist():
            if not record.filename.endswith(".debug_pkl"):
                rest.writestr(record, whole.read(record))
    return buffer.getvalue()
