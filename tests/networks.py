"""Networks of one's own, as a user would bring them: `POLYHEAD_BACKBONE=tests.networks:tiny`."""

import torch
from torch import nn

from models.backbone import Backbone


def tiny() -> Backbone:
    """A network that embeds in a fraction of a millisecond: 3 channels, 32 px, 16 numbers, two stages."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = nn.Sequential()
        module.add_module("stem", nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.ReLU()))
        module.add_module("body", nn.Sequential(nn.Conv2d(8, 16, 2, stride=2), nn.ReLU()))
        module.add_module("pool", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    return Backbone(
        module=module,
        input_size=32,
        channels=3,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        interpolation="bilinear",
        stages=("stem", "body"),
        features="pooled",
        name="tiny",
        licence="Apache-2.0",
    )
