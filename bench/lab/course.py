"""One course of the lab, through the strategies that are served: head by Adam, last block, exact head."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from bench.lab.pictures import pictures
from models.arrays import FloatArray, UInt8Array
from models.backbone import Backbone
from models.dataset import SPLITS, Dataset
from models.graph import PixelGraph, embed
from models.strategies.adam_head import fit_adam_head
from models.strategies.finish import TunedFit, fit
from models.strategies.head import FitResult, fit_head
from models.strategies.last_block import last_block
from models.strategies.options import AdamHeadOptions, HeadOptions, LastBlockOptions
from models.tail import split_at
from models.tuned_export import expected

NEW = ("cross", "anti-diagonal", "frame")
HELD = 40  # pictures a class, of validation and of test each
STAGE = 20  # epochs of the head alone, and again of the head with the last convolution
PATIENT = 1000  # epochs: as taught, nothing stops early
MOVED = 4  # pixels, of the pictures that no training has seen at their place


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What an exercise changes of the recipe."""

    classes: tuple[str, ...] = NEW
    each: int = 12  # pictures a class to train on
    head_rate: float = 0.005  # beside the last convolution
    last_rate: float = 0.0005  # of that


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Accuracies, 0-1."""

    validation: float | None  # after the last epoch, as taught; an exact fit has no epochs
    kept: float | None  # on validation, of the epoch that the strategy keeps
    test: float  # of that one, on pictures that chose nothing
    moved: float  # on the same pictures, moved; by what is served


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    head: Scores  # by Adam, on embeddings as they are
    tuned: Scores  # and then the last convolution with it
    exact: Scores  # standardised, to its optimum
    head_trains: dict[str, int]  # parameters by name
    tuned_trains: dict[str, int]


def run_course(backbone: Backbone, seed: int, setting: Setting) -> Course:
    """Args: backbone: pretrained; seed: of the pictures, the heads and the batches."""
    rng = np.random.default_rng([seed, 1])
    each = dict(zip(SPLITS, (setting.each, HELD, HELD), strict=True))
    parts = [pictures(setting.classes, count, rng) for count in each.values()]
    pixels = np.concatenate([images for images, _ in parts])
    dataset = _dataset(backbone, pixels, np.concatenate([targets for _, targets in parts]), setting, each)
    moved, targets = pictures(setting.classes, HELD, rng, moved=MOVED)
    total = sum(each.numel() for each in backbone.module.parameters())
    silent: dict[str, Any] = {"report": lambda _: None, "total_backbone_parameters": total}
    batch = setting.each * len(setting.classes)  # all there are
    same: dict[str, Any] = {
        "seed": seed, "batch_size": batch, "weight_decay": 0.0, "schedule": "constant", "patience": PATIENT
    }  # fmt: skip
    adam = fit_adam_head(dataset, AdamHeadOptions(lr=0.05, epochs=STAGE, **same), **silent)
    options = LastBlockOptions(
        head_start="random",
        warmup_epochs=STAGE,
        warmup_lr=0.05,
        epochs=STAGE,
        lr=setting.head_rate,
        decay=setting.last_rate / setting.head_rate,
        augmentation="none",
        **same,
    )
    split = split_at(backbone, 1)
    recipe = last_block(
        dataset,
        _maps(backbone, pixels),
        split,
        options,
        total_backbone_parameters=total,
    )
    tuned = fit(recipe, report=lambda _: None)
    exact = fit_head(dataset, HeadOptions(seed=seed), **silent)
    features = embed(backbone, moved)
    tail = _tail_answers(tuned, _maps(backbone, moved))
    return Course(
        head=_scores(adam.fit, adam.fit.head.predict(features), targets),
        tuned=_scores(tuned.fit, tail, targets),
        exact=_scores(exact, exact.head.predict(features), targets),
        head_trains=adam.fit.decision["parameters"]["by_name"],
        tuned_trains=tuned.parameters.parameters,
    )


def _dataset(
    backbone: Backbone, pixels: UInt8Array, targets: Any, setting: Setting, each: dict[Any, int]
) -> Dataset:
    splits = tuple(name for name, count in each.items() for _ in range(count * len(setting.classes)))
    count = len(splits)
    return Dataset(
        kind="multiclass",
        labels=setting.classes,
        ids=tuple(f"picture {number}" for number in range(count)),
        embeddings=embed(backbone, pixels),
        targets=targets,
        groups=(None,) * count,
        hashes=np.arange(count, dtype=np.uint64),
        splits=splits,
        split_by_user=(True,) * count,
    )


def _maps(backbone: Backbone, pixels: UInt8Array) -> Any:
    """(N, 1, 8, 8, 8) float16, as the trainer's scratch holds them: what the last convolution is given."""
    with torch.inference_mode():
        outputs = PixelGraph(backbone)(torch.from_numpy(pixels))
    return outputs[1 + backbone.stages.index("early")].half().numpy()[:, None]


def _tail_answers(tuned: TunedFit, maps: Any) -> FloatArray:
    return expected(tuned.network, tuned.fit.head, torch.from_numpy(maps[:, 0]).float())


def _scores(fit: FitResult, moved: FloatArray, targets: Any) -> Scores:
    by_gradient = "epoch" in fit.history[-1]
    return Scores(
        validation=fit.history[-1]["score"] if by_gradient else None,
        kept=fit.decision["validation"]["value"] if by_gradient else None,
        test=fit.metrics["accuracy"],
        moved=float((moved.argmax(axis=1) == targets).mean()),
    )
