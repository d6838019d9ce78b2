"""How far a batch's statistics are from those that a network's batch-norms remember. Imports torch."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from models.arrays import UInt8Array
from models.backbone import Backbone
from models.graph import PixelGraph

BATCH = 16  # images


def batch_norm_shift(backbone: Backbone, pixels: UInt8Array) -> float | None:
    """Mean over layers and channels of |mean of these images - running mean|, in running deviations.

    Args:    pixels: (N, H, W, C) uint8 at the backbone's input size; N at least 1.
    Returns: None where the network has no batch-norm with running statistics.
    """
    norms = [
        module
        for module in backbone.module.modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    ]
    sums: dict[nn.Module, Tensor] = {}

    def add(norm: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Inputs (B, C, …): each image's mean of each channel, summed over the images."""
        summed = inputs[0].flatten(2).mean(dim=2).sum(dim=0) if inputs[0].ndim > 2 else inputs[0].sum(dim=0)
        sums[norm] = sums.get(norm, 0) + summed

    hooks = [norm.register_forward_pre_hook(add) for norm in norms]
    graph = PixelGraph(backbone).eval()
    try:
        with torch.inference_mode():
            for start in range(0, len(pixels), BATCH):
                graph(torch.from_numpy(pixels[start : start + BATCH]))
    finally:
        for hook in hooks:
            hook.remove()
    shifts = [_shift(norm, total / len(pixels)) for norm, total in sums.items()]
    return sum(shifts) / len(shifts) if shifts else None


def _shift(norm: Any, mean: Tensor) -> float:
    deviation = (norm.running_var + norm.eps).sqrt()
    return float(((mean - norm.running_mean).abs() / deviation).mean())  # (C,) -> ()
