"""The taught lab: a tiny network that knows three lines learns a cross, an anti-diagonal and a frame."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from models.backbone import Backbone
from models.graph import embed
from models.strategies.head import HeadOptions, fit_head
from models.strategies.last_block import fit_last_block
from models.strategies.options import LastBlockOptions
from models.tail import split_at
from tests.unit.datasets import make_dataset
from tests.unit.ladder import feature_maps

pytestmark = pytest.mark.usefixtures("one_thread")

SEEDS = 20
BATCH = 32  # pictures, while it is pretrained
SIDE = 16  # pixels
NOISE = 0.05  # standard deviation, of values from 0 to 1
PRETRAINED_ON = ("vertical", "horizontal", "diagonal")
ADAPTED_TO = ("cross", "anti-diagonal", "frame")
COUNTS = {"train": 12, "validation": 40, "test": 40}  # pictures a class


def picture(name, rng):
    """(16, 16) values around 0 and 1: a figure at a random place."""
    image = np.zeros((SIDE, SIDE))
    at, across = rng.integers(4, 12, 2)
    numbers = np.arange(SIDE)
    shift = rng.integers(-3, 4)
    if name in ("vertical", "cross"):
        image[:, at] = 1
    if name in ("horizontal", "cross"):
        image[across, :] = 1
    if name == "diagonal":
        image[numbers, (numbers + shift) % SIDE] = 1
    if name == "anti-diagonal":
        image[numbers, (SIDE - 1 - numbers + shift) % SIDE] = 1
    if name == "frame":
        inset = rng.integers(1, 4)
        image[inset, inset:-inset] = image[-inset - 1, inset:-inset] = 1
        image[inset:-inset, inset] = image[inset:-inset, -inset - 1] = 1
    return image + rng.normal(0, NOISE, image.shape)


def pictures(names, count, rng):
    """(len(names) * count, 16, 16, 1) uint8, from a value of -0.25 on, and the classes."""
    values = np.stack([picture(name, rng) for name in names for _ in range(count)])
    return np.clip((values + 0.25) / 1.5 * 255, 0, 255).astype(np.uint8)[..., None], np.repeat(
        np.arange(len(names)), count
    )


def network():
    """3x3 convolutions of 8 and 16 channels, one max-pool, global average pool."""
    module = nn.Sequential()
    module.add_module("early", nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)))
    module.add_module("last", nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU()))
    module.add_module("pool", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    return module


def pretrained(seed, rng):
    torch.manual_seed(seed)
    module, head = network(), nn.Linear(16, len(PRETRAINED_ON))
    pixels, targets = pictures(PRETRAINED_ON, 80, rng)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 170 - 0.25
    optimiser = torch.optim.Adam([*module.parameters(), *head.parameters()], lr=0.03)
    classes = torch.from_numpy(targets)
    for _ in range(60):
        for rows in torch.randperm(len(images)).split(BATCH):
            optimiser.zero_grad()
            nn.functional.cross_entropy(head(module(images[rows])), classes[rows]).backward()
            optimiser.step()
    return Backbone(
        module=module.eval().requires_grad_(False),
        input_size=SIDE,
        channels=1,
        mean=(1 / 6,),
        std=(2 / 3,),
        interpolation="bilinear",
        stages=("early", "last"),
        features="pooled",
        name="lab",
    )


@dataclass
class Course:
    head_only: float  # validation accuracy, by Adam
    fine_tuned: float  # by the state that was kept
    exact: float  # of the test, by the head fitted exactly
    trained: dict


def course(seed):
    with torch.random.fork_rng(devices=[]):
        rng = np.random.default_rng(seed)
        backbone = pretrained(seed, rng)
        parts = [pictures(ADAPTED_TO, count, rng) for count in COUNTS.values()]
    pixels = np.concatenate([images for images, _ in parts])
    targets = np.concatenate([classes for _, classes in parts])
    splits = tuple(name for name, count in COUNTS.items() for _ in range(count * len(ADAPTED_TO)))
    dataset = make_dataset(
        "multiclass",
        ADAPTED_TO,
        embed(backbone, pixels),
        targets,
        splits=splits,
        split_by_user=(True,) * len(splits),
    )
    split = split_at(backbone, 1)
    total = sum(each.numel() for each in backbone.module.parameters())
    silent = {"report": lambda _: None, "total_backbone_parameters": total}
    options = LastBlockOptions(
        seed=seed,
        head_start="random",
        warmup_epochs=20,
        warmup_lr=0.05,
        epochs=20,
        lr=0.005,
        decay=0.1,
        weight_decay=0.0,
        schedule="constant",
        batch_size=36,  # all there are
        patience=100,
        augmentation="none",
    )
    maps = feature_maps(backbone, pixels, split.stage, ("as it is",))
    tuned = fit_last_block(dataset, maps, split, options, **silent)
    scores = [entry["score"] for entry in tuned.fit.history]
    exact = fit_head(dataset, HeadOptions(seed=seed), **silent)
    return Course(
        head_only=scores[20],
        fine_tuned=tuned.fit.decision["validation"]["value"],
        exact=exact.metrics["accuracy"],
        trained=tuned.parameters.parameters,
    )


def test_thawing_the_last_convolution_is_never_worse_and_on_average_much_better():
    courses = [course(seed) for seed in range(SEEDS)]
    gains = np.array([each.fine_tuned - each.head_only for each in courses])

    assert courses[0].trained.keys() == {
        "network.last.0.weight",
        "network.last.0.bias",
        "head.weight",
        "head.bias",
    }
    assert gains.min() >= 0
    assert gains.mean() >= 0.15
    assert min(each.exact for each in courses) >= 0.95
