"""The network of neural_net as ONNX: `python export_onnx.py MODEL OUTPUT` (torch, onnx, onnxscript).

The TorchScript holds its weights as constants: they are read from its graph, put into the same nn.Module, and the two
are compared before anything is written. Input "image", uint8 [N, 1, 28, 28]; outputs "logits", "class_id" and
"probability" (of the class, uncalibrated as the TorchScript itself).
"""

import itertools
import sys
import warnings

import torch
from torch import nn

warnings.simplefilter("ignore")


class Network(nn.Module):
    def __init__(self, matrices: list[torch.Tensor], biases: list[torch.Tensor]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for matrix, bias in zip(matrices, biases, strict=True):
            layer = nn.Linear(matrix.shape[1], matrix.shape[0])
            layer.weight.data, layer.bias.data = matrix.clone(), bias.clone()
            layers += [layer, nn.Sigmoid()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        logits = self.layers((image.float() / 255).flatten(1))
        probability, class_id = logits.softmax(1).max(1)
        return logits, class_id, probability


def main(source: str, target: str) -> None:
    script = torch.jit.load(source).eval()
    constants = [node.output().toIValue() for node in script.graph.findAllNodes("prim::Constant")]
    tensors = [value for value in constants if isinstance(value, torch.Tensor)]
    by_shape = {tuple(tensor.shape): tensor for tensor in tensors}
    sizes = (784, 128, 256, 10)
    pairs = list(itertools.pairwise(sizes))
    network = Network([by_shape[out, into] for into, out in pairs], [by_shape[(out,)] for _, out in pairs]).eval()
    images = torch.randint(0, 256, (64, 1, 28, 28), dtype=torch.uint8)
    with torch.inference_mode():
        torch.testing.assert_close(network(images)[0], script(images), rtol=1e-4, atol=1e-4)
    torch.onnx.export(
        network,
        (images,),
        target,
        input_names=["image"],
        output_names=["logits", "class_id", "probability"],
        dynamic_axes={name: {0: "batch"} for name in ("image", "logits", "class_id", "probability")},
        dynamo=False,
        opset_version=17,
    )


if __name__ == "__main__":
    main(*sys.argv[1:3])
