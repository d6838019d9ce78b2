"""How `auto` tries each rung: the options that the rule and the time that is left give it.

Imports neither torch nor numpy.
"""

from typing import Any

from models.strategies.options import (
    FinetuneOptions,
    LastBlockOptions,
    LoraOptions,
    StagesOptions,
    TrainingOptions,
)
from models.strategies.rule import Rule, Rung

FEW_VALIDATION = 100  # examples, below which a choice rests on folds of all but the test's
SMOOTHING = 0.05  # of labels in a distant domain, of which experts often disagree
LEAST_SECONDS = 3.0  # that a rung is worth beginning with
WHOLE_NETWORK = 3.0  # times the seconds of a tail, that training everything takes at the least


def rung_options(rule: Rule, rung: Rung, *, seed: int, max_seconds: float) -> TrainingOptions:
    """Of a rung that trains by gradient.

    Heavy augmentation, which flips a photo in every direction, is for domains without an up and a down:
    there the answer may as well be the mean over the flips. Training is stopped by the loss, since a few
    hundred answers right or wrong say little of one epoch against the next.
    """
    heavy = rule.augmentation == "heavy"
    shared: dict[str, Any] = {
        "seed": seed,
        "max_seconds": max_seconds,
        "augmentation": rule.augmentation,
        "batch_norm": rule.batch_norm,
        "average_flips": heavy,
        "label_smoothing": SMOOTHING if heavy else 0.0,
        "monitor": "loss",
        "warmup_epochs": 0,  # the head starts at its optimum
    }
    if rung == "stages":
        return StagesOptions(**shared)
    if rung == "finetune":
        return FinetuneOptions(**shared)
    if rung == "lora":
        # On one block: its factors are to stay under 1 % of the backbone. By their own way to choose.
        return LoraOptions(**shared | {"monitor": "end"})
    return LastBlockOptions(blocks=rule.blocks or 1, **shared)
