"""Three ways, as taught: frozen, one rate for all layers, discriminative rates; beside them, from scratch.

The ways share the sample, the random head that they start with, augmentation, batches, epochs and schedule.
The network of the last epoch is what is scored: validation chooses nothing here, so its accuracy is honest.
"""

import argparse
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.adaptation.features import Features, Tell
from bench.adaptation.images import Collection, collections, held_out, sample
from bench.adaptation.journal import Journal
from models.arrays import IntArray
from models.identity import BackboneConfig
from models.strategies.attempt import Recipe, attempt_on
from models.strategies.budget import Budget
from models.strategies.finetune import finetune
from models.strategies.options import FinetuneOptions
from models.strategies.training import predict

WAYS: dict[str, dict[str, Any]] = {
    "frozen": {},  # and no block trains
    "one rate": {"single_lr": True},
    "discriminative rates": {},
    # batch statistics of random layers are no one's: they have to follow the batches
    "from scratch": {"single_lr": True, "pretrained": False, "batch_norm": "train"},
}
EARLY = 3  # blocks that count as early layers, the stem among them
IMAGES_S = 45.0  # trained by one core at 128 px, by which the whole is estimated; a third of it forward only
SIDE = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What all ways share."""

    datasets: tuple[str, ...]
    seeds: int
    backbone: str
    input_size: int | None  # pixels
    train: int  # photos, balanced by class as far as there are enough
    validation: int
    epochs: int  # after one in which the head trains alone
    batch_size: int
    lr: float  # of the head
    decay: float  # rate of a block over that of the one after it
    augmentation: str
    threads: int

    def options(self, way: str, seed: int) -> FinetuneOptions:
        said: dict[str, Any] = {
            "seed": seed, "epochs": self.epochs, "warmup_epochs": 1, "head_start": "random", "lr": self.lr,
            "decay": self.decay, "batch_size": self.batch_size, "augmentation": self.augmentation,
        }  # fmt: skip
        return FinetuneOptions(**said | WAYS[way])

    @property
    def settings(self) -> dict[str, Any]:
        """That decide a row's figures."""
        own = ("backbone", "input_size", "train", "validation", "epochs", "batch_size", "lr", "decay")
        return {name: getattr(self, name) for name in (*own, "augmentation")}

    @property
    def keys(self) -> list[list[Any]]:
        """A seed of everything first: an early look has all of the ways in it."""
        seeds = range(self.seeds)
        return [[dataset, way, seed] for seed in seeds for dataset in self.datasets for way in WAYS]

    def estimate_s(self, keys: list[list[Any]]) -> float:
        """Seconds on one idle core, at most: of a small collection there are fewer photos."""
        pace = IMAGES_S * (SIDE / (self.input_size or 224)) ** 2
        each = (self.epochs * self.train + self.train / 3 + self.validation / 3) / pace
        return sum(each / 3 if way == "frozen" else each for _, way, _ in keys)


def plan_of(said: argparse.Namespace) -> Plan:
    return Plan(**{name: getattr(said, name) for name in Plan.__dataclass_fields__ if name != "datasets"},
                datasets=tuple(said.datasets))  # fmt: skip


def measure(plan: Plan, journal: Journal, said: argparse.Namespace, tell: Tell) -> None:
    """Everything that the journal lacks. Raises: BenchFailed, BackboneError."""
    torch.set_num_threads(plan.threads)
    keys = journal.missing(plan.keys)
    tell(f"{len(keys)} trainings, {plan.estimate_s(keys) / 60:.0f} minutes on an idle core")
    names = [name for name in plan.datasets if any(name == dataset for dataset, _, _ in keys)]
    photos = collections(names, stamps_root=said.stamps, cache=said.work, per_class=said.per_class)
    config = BackboneConfig(name=plan.backbone, input_size=plan.input_size, threads=plan.threads)
    seen = {name: Features.of(photos[name], config, said.work, tell) for name in names}
    began = time.monotonic()
    for number, (dataset, way, seed) in enumerate(keys, start=1):
        figures = train_one(plan, seen[dataset], way, seed)
        journal.add([dataset, way, seed], **figures)
        left = (time.monotonic() - began) / number * (len(keys) - number) / 60
        tell(f"{dataset}, {way}, seed {seed}: {figures['accuracy']:.3f}; {left:.0f} minutes left")


def train_one(plan: Plan, features: Features, way: str, seed: int) -> dict[str, Any]:
    """Accuracy on validation, 0-1; seconds; relative weight change of each block."""
    train, validation = parts(plan, features.collection, seed)
    rows = np.concatenate([train, validation])
    taught = finetune(
        features.dataset.take(rows), features.pixels[rows], features.backbone, plan.options(way, seed)
    )
    start: dict[str, Tensor] = {}
    blocks = taught.blocks
    recipe = replace(
        taught,
        build=lambda: _noted(taught.build(), start),
        blocks=() if way == "frozen" else blocks,
    )
    wall, cpu = time.monotonic(), time.process_time()
    adapted, logits = trained(recipe, len(train))
    seconds, cpu_s = time.monotonic() - wall, time.process_time() - cpu
    right = logits.argmax(axis=1) == recipe.dataset.targets[len(train) :]
    moved = {block.name: change(start, adapted.network, block.parameters) for block in blocks}
    return {
        "accuracy": float(right.mean()), "seconds": seconds, "cpu_s": cpu_s, "moved": moved,
        "train": len(train), "validation": len(validation),
    }  # fmt: skip


def trained(recipe: Recipe, count: int) -> tuple[Any, Any]:
    """Train on the first `count` examples for all epochs, and answer the others."""
    rows = np.arange(len(recipe.dataset))
    attempt = attempt_on(recipe, rows[:count], rows[:0], Budget.of(None, None), lambda _: None)
    return attempt.adapted, predict(attempt.adapted, recipe.source, rows[count:])


def parts(plan: Plan, collection: Collection, seed: int) -> tuple[IntArray, IntArray]:
    """Rows to train on and rows to validate with, anew for each seed, in the same shares of each class."""
    classes = len(collection.labels)
    share = plan.validation / (plan.train + plan.validation)
    pool, held = held_out(collection, share, seed)
    train = sample(collection, pool, plan.train // classes, seed)
    return train, sample(collection, held, plan.validation // classes, seed)


def change(start: dict[str, Tensor], network: nn.Module, names: tuple[str, ...]) -> float:
    """‖w - w0‖ / ‖w0‖ over all of the parameters named."""
    now = dict(network.named_parameters())
    moved = sum(float((now[name].detach() - start[name]).square().sum()) for name in names)
    was = sum(float(start[name].square().sum()) for name in names)
    return float(np.sqrt(moved / was)) if was else 0.0


def _noted(network: nn.Module, start: dict[str, Tensor]) -> nn.Module:
    start |= {name: tensor.detach().clone() for name, tensor in network.named_parameters()}
    return network
