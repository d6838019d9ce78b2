"""Strategy `finetune`: every block trains, on pixels; each earlier one more slowly. Imports torch.

The network then belongs to its task. On little data it often ends below the frozen backbone, and must win on
validation to be chosen.
"""

import copy
from dataclasses import replace

import torch
from torch import nn

from models.arrays import FloatArray, UInt8Array
from models.backbone import Backbone
from models.blocks import coarse_blocks
from models.dataset import Dataset
from models.graph import preprocessing_of
from models.strategies.attempt import Recipe
from models.strategies.options import FinetuneOptions
from models.strategies.sources import PixelSource
from models.tail import Tail


def finetune(
    dataset: Dataset,
    pixels: UInt8Array,
    backbone: Backbone,
    options: FinetuneOptions,
    *,
    embeddings: FloatArray | None = None,
    device: str = "cpu",
) -> Recipe:
    """What `explore` and `finish` take.

    Args:   pixels: (N, H, W, C) uint8 at the backbone's input size, in the dataset's order.
            embeddings: (N, D) of them by this backbone, where the dataset's are of another input size:
            the head starts on these, while splits and folds stay those that other strategies have.
    Raises: ValueError: they are of another shape.
    """
    expected = (len(dataset), backbone.input_size, backbone.input_size, backbone.channels)
    if pixels.shape != expected:
        raise ValueError(f"pixels {pixels.shape} instead of {expected}")
    blocks = coarse_blocks(backbone)

    def build() -> nn.Module:
        network = Tail(copy.deepcopy(backbone.module), backbone.features)
        return network if options.pretrained else randomised(network)

    return Recipe(
        strategy="finetune",
        dataset=dataset,
        source=PixelSource(
            pixels,
            preprocessing_of(backbone),
            options.augmentation,
            average_flips=options.average_flips,
            device=device,
        ),
        build=build,
        blocks=tuple(
            replace(block, parameters=tuple(f"network.{name}" for name in block.parameters))
            for block in blocks
        ),
        options=options,
        total_backbone_parameters=sum(each.numel() for each in backbone.module.parameters()),
        unfreeze_every=options.unfreeze_every,
        single_lr=options.single_lr,
        exact_start=options.pretrained and options.head_start == "exact",
        start=None if embeddings is None else replace(dataset, embeddings=embeddings),
        device=device,
    )


def randomised(network: nn.Module) -> nn.Module:
    """The same network with random weights, from torch's global generator: what `pretrained: false` compares.

    Layers start as torch starts them, other matrices (tokens, positions) at 0.02, layer scales at 0.1.
    """
    done: set[int] = set()
    for module in network.modules():
        if callable(reset := getattr(module, "reset_parameters", None)):
            reset()
            done.update(id(each) for each in module.parameters(recurse=False))
    with torch.no_grad():
        for parameter in network.parameters():
            if id(parameter) not in done and parameter.ndim > 1:
                nn.init.trunc_normal_(parameter, std=0.02)
            elif id(parameter) not in done:
                parameter.fill_(0.1)
    return network
