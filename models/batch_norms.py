"""How far a batch's statistics are from those that a network's batch norms remember. Imports torch."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from models.arrays import UInt8Array
from models.backbone import Backbone
from models.graph import PixelGraph

BATCH = 16  # images
TINY = 1e-6  # of the running variance, which a channel that is the same everywhere counts as


@dataclass(slots=True)
class _Moments:
    """Of one norm's inputs, each (C,): the sums over images of each image's means."""

    of_values: Tensor
    of_squares: Tensor


def batch_norm_distance(backbone: Backbone, pixels: UInt8Array) -> float | None:
    """Mean over layers and channels of |ln(variance over these images / running variance)|.

    Not the shift of the means, which separates near from far less well: docs/adaptation.md has both.

    Args:    pixels: (N, H, W, C) uint8 at the backbone's input size; N at least 1.
    Returns: 0 for images that vary as the pretraining data did; None where the network has no batch norm
             with running statistics.
    """
    norms = [
        module
        for module in backbone.module.modules()
        if isinstance(module, _BatchNorm) and module.running_var is not None
    ]
    moments: dict[nn.Module, _Moments] = {}

    def add(norm: nn.Module, inputs: tuple[Any, ...]) -> None:
        values = inputs[0].flatten(2) if inputs[0].ndim > 2 else inputs[0].unsqueeze(2)  # (B, C, positions)
        of_values, of_squares = (each.mean(dim=2).sum(dim=0) for each in (values, values.square()))
        if norm in moments:
            of_values, of_squares = of_values + moments[norm].of_values, of_squares + moments[norm].of_squares
        moments[norm] = _Moments(of_values, of_squares)

    hooks = [norm.register_forward_pre_hook(add) for norm in norms]
    graph = PixelGraph(backbone).eval()
    try:
        with torch.inference_mode():
            for start in range(0, len(pixels), BATCH):
                graph(torch.from_numpy(pixels[start : start + BATCH]))
    finally:
        for hook in hooks:
            hook.remove()
    distances = [_distance(norm, each, len(pixels)) for norm, each in moments.items()]
    return sum(distances) / len(distances) if distances else None


def _distance(norm: Any, moments: _Moments, images: int) -> float:
    variance = moments.of_squares / images - (moments.of_values / images).square()  # (C,)
    ratio = variance.clamp(min=0) / (norm.running_var + norm.eps)
    return float((ratio + TINY).log().abs().mean())
