"""Factories as users might write them, right and wrong ones."""

from dataclasses import replace

import torch
from torch import nn

from models.backbone import Backbone
from tests.networks import tiny


def grey():
    """One channel, and a crop of its own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Conv2d(1, 4, 4, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Backbone(
        module=module,
        input_size=16,
        channels=1,
        mean=(0.5,),
        std=(0.5,),
        interpolation="bilinear",
        stages=("1",),
        features="pooled",
        crop_pct=0.8,
    )


def dropping():
    """In training mode it gives another answer each time."""
    backbone = tiny()
    backbone.module.append(nn.Dropout(0.5))
    return replace(backbone, module=backbone.module.train())


def rewritten():
    """The weights and `features` of `tiny`, but other code."""
    backbone = tiny()
    backbone.module.append(nn.Softmax(dim=1))
    return backbone


def rewritten_and_said():
    return replace(rewritten(), features="softmax of pooled")


not_a_function = 3


def failing():
    raise ValueError("no licence key\nsecond line")


def other_type():
    return nn.Linear(1, 1)


def five_channels():
    return replace(tiny(), channels=5)


def short_mean():
    return replace(tiny(), mean=(0.5,))


def no_size():
    return replace(tiny(), input_size=0)


def area():
    return replace(tiny(), interpolation="area")


def unnamed_features():
    return replace(tiny(), features="")


def unknown_stage():
    return replace(tiny(), stages=("stem", "boddy"))


def twice_a_stage():
    return replace(tiny(), stages=("stem", "stem"))


def unused_stage():
    backbone = tiny()
    backbone.module.stem[0].add_module("spare", nn.Identity())
    return replace(backbone, stages=("stem.0.spare",))


def stage_called_embedding():
    backbone = tiny()
    backbone.module.add_module("embedding", nn.Identity())
    return replace(backbone, stages=("embedding",))


def grey_declared_on_colour():
    return replace(grey(), channels=3, mean=(0.5,) * 3, std=(0.5,) * 3)


def unpooled():
    backbone = tiny()
    return replace(backbone, module=nn.Sequential(backbone.module.stem), stages=())


def one_row():
    return replace(tiny(), module=nn.Sequential(nn.Flatten(0)), stages=())


class Infinite(nn.Module):
    def forward(self, images):
        return images.mean(dim=(2, 3)) / 0


def infinite():
    return replace(tiny(), module=Infinite(), stages=())
