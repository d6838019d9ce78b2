"""Networks of one's own, as a user would bring them: `POLYHEAD_BACKBONE=tests.networks:tiny`."""

from dataclasses import replace

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


def pointwise() -> Backbone:
    """As `tiny`, with a wide stem and a pointwise last block, so that low-rank factors stay under 1 %."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = nn.Sequential()
        stem = nn.Sequential(nn.Conv2d(3, 96, 4, stride=4), nn.ReLU(), nn.Conv2d(96, 16, 2, stride=2))
        module.add_module("stem", stem)
        module.add_module("body", nn.Sequential(nn.ReLU(), nn.Conv2d(16, 16, 1), nn.ReLU()))
        module.add_module("pool", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    return replace(tiny(), module=module, name="pointwise")


def deep() -> Backbone:
    """As `pointwise`, with a wider stem and a block more: its last two may be trained, or a higher rank."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        module = nn.Sequential()
        stem = nn.Sequential(nn.Conv2d(3, 192, 4, stride=4), nn.ReLU(), nn.Conv2d(192, 16, 2, stride=2))
        module.add_module("stem", stem)
        module.add_module("neck", nn.Sequential(nn.ReLU(), nn.Conv2d(16, 16, 1)))
        module.add_module("body", nn.Sequential(nn.ReLU(), nn.Conv2d(16, 16, 1), nn.ReLU()))
        module.add_module("pool", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    return replace(tiny(), module=module, stages=("stem", "neck", "body"), name="deep")


def rigid() -> Backbone:
    """A network that takes 32 px and nothing else."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(3 * 8 * 8, 16))
    return replace(tiny(), module=module, stages=(), name="rigid")


def wide() -> Backbone:
    """As `tiny`, with a stem whose output takes more bytes than the image."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = nn.Sequential()
        module.add_module("stem", nn.Sequential(nn.Conv2d(3, 64, 4, stride=4), nn.ReLU()))
        module.add_module("body", nn.Sequential(nn.Conv2d(64, 16, 2, stride=2), nn.ReLU()))
        module.add_module("pool", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    return replace(tiny(), module=module, name="wide")


def blind() -> Backbone:
    """As `tiny`, to which every image looks the same."""
    module = tiny().module
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    return replace(tiny(), module=module, name="blind")
