"""ONNX out for what was trained by gradient: a tail, or a whole network. Imports torch.

    tail_onnx     `feature_map` (N, *stage shape) -> what a head answers; what is served
    network_onnx  `pixels` uint8 (N, H, W, C) -> the same, of a task that owns its network

A tail becomes a file from pixels by `models.export.model_onnx`, as a head does; either may then answer with
the mean over flips (`models.averaging`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from models.arrays import FloatArray, UInt8Array
from models.backbone import Backbone
from models.export import checked, output_names
from models.graph import PixelGraph, traced
from models.head import LinearHead, answers
from models.head_session import FEATURE_MAP
from models.identity import AS_IT_IS, PIXELS
from models.tail import Tail
from models.views import flipped


class Answering(nn.Module):
    """Network and head -> logits and probabilities, or a value."""

    def __init__(self, network: nn.Module, head: LinearHead) -> None:
        super().__init__()
        self.network = network
        self.kind = head.kind
        self.linear = nn.Linear(head.weight.shape[1], head.weight.shape[0])
        with torch.no_grad():
            self.linear.weight.copy_(torch.from_numpy(head.weight))
            self.linear.bias.copy_(torch.from_numpy(head.bias))

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        embedding = self.network(inputs)
        logits = self.linear(embedding[0] if isinstance(embedding, tuple) else embedding)  # (N, C)
        if self.kind == "multiclass":
            return logits, logits.softmax(dim=1)
        if self.kind == "multilabel":
            return logits, logits.sigmoid()
        return (logits,)


def tail_onnx(
    tail: nn.Module, head: LinearHead, shape: tuple[int, ...], *, metadata: Mapping[str, str]
) -> bytes:
    """Args: shape: of one image's feature map. Raises: ExportError."""
    return _exported(Answering(tail, head), torch.zeros(2, *shape), FEATURE_MAP, metadata)


def network_onnx(
    backbone: Backbone, network: Tail, head: LinearHead, *, metadata: Mapping[str, str]
) -> bytes:
    """Args: backbone: whose preprocessing it shares; network: the tuned one. Raises: ExportError."""
    size = (2, backbone.input_size, backbone.input_size, backbone.channels)
    blank = torch.zeros(size, dtype=torch.uint8)
    return _exported(Answering(_from_pixels(backbone, network), head), blank, PIXELS, metadata)


def expected(network: nn.Module, head: LinearHead, inputs: Tensor) -> FloatArray:
    """(N, C) probabilities or (N, 1) values by torch: what a file is held against."""
    with torch.inference_mode():
        answers: FloatArray = Answering(network, head).eval()(inputs)[-1].numpy()
    return answers


def expected_of_network(
    backbone: Backbone,
    network: Tail,
    head: LinearHead,
    pixels: UInt8Array,
    views: Sequence[str] = (AS_IT_IS,),
) -> FloatArray:
    """As `expected`, from (N, H, W, C) pixels: what the mean of the logits over some views answers."""
    answering = Answering(_from_pixels(backbone, network), head).eval()
    with torch.inference_mode():
        logits = [answering(torch.from_numpy(flipped(pixels, view)))[0] for view in views]
        mean: FloatArray = torch.stack(logits).mean(dim=0).numpy()
    return answers(head.kind, mean)


def _from_pixels(backbone: Backbone, network: Tail) -> PixelGraph:
    return PixelGraph(replace(backbone, module=network.network, stages=()))


def _exported(module: Answering, example: Tensor, name: str, metadata: Mapping[str, str]) -> bytes:
    model = traced(module.eval(), example, name, output_names(module.kind))
    return checked(model, metadata)
