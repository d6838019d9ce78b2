"""The lab's network, as a user would bring one: `bench.lab.network:pooled`. Imports torch."""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from bench.lab.pictures import LEAST, SIDE, SPAN, pictures
from models.backbone import Backbone, build_backbone
from models.identity import BackboneConfig

KNOWN = ("vertical", "horizontal", "diagonal")
EACH = 80  # pictures a class
EPOCHS = 60
RATE = 0.03  # Adam's
BATCH = 32  # pictures

WIDTHS = {"pooled": 16, "flattened": 16 * (SIDE // 2) ** 2}  # of the embedding


def pooled() -> Backbone:
    """3x3 convolutions of 8 and 16 channels, one max-pool, global average pool."""
    return _network("pooled", nn.AdaptiveAvgPool2d(1), nn.Flatten())


def flattened() -> Backbone:
    """The same without the global pool: where in the picture a feature is stays in the embedding."""
    return _network("flattened", nn.Flatten())


def _network(name: str, *end: nn.Module) -> Backbone:
    module = nn.Sequential()
    module.add_module("early", nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)))
    module.add_module("last", nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU()))
    module.add_module("end", nn.Sequential(*end))
    return Backbone(
        module=module,
        input_size=SIDE,
        channels=1,
        mean=(-LEAST / SPAN,),  # so that the network sees the figure's own values
        std=(1 / SPAN,),
        interpolation="bilinear",
        stages=("early", "last"),
        features=name,
        name=f"lab, {name}",
        licence="Apache-2.0",
    )


def pretrained(name: str, seed: int, folder: Path) -> Backbone:
    """The factory's network, through the same door as any, with weights that know three lines.

    Args: name: of a factory here; folder: where the weights are written.
    """
    path = folder / f"{name}-{seed}.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = {"pooled": pooled, "flattened": flattened}[name]()
        _pretrain(backbone, nn.Linear(WIDTHS[name], len(KNOWN)), np.random.default_rng(seed))
    save_file(backbone.module.state_dict(), path)
    return build_backbone(BackboneConfig(name=f"bench.lab.network:{name}", weights=path))


def _pretrain(backbone: Backbone, head: nn.Linear, rng: np.random.Generator) -> None:
    pixels, targets = pictures(KNOWN, EACH, rng)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 * SPAN + LEAST
    classes = torch.from_numpy(targets)
    optimiser = torch.optim.Adam([*backbone.module.parameters(), *head.parameters()], lr=RATE)
    for _ in range(EPOCHS):
        for rows in torch.split(torch.randperm(len(images)), BATCH):
            optimiser.zero_grad()
            loss = nn.functional.cross_entropy(head(backbone.module(images[rows])), classes[rows])
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
