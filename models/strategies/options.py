"""What a user may set of each strategy, and its bounds.

Imports neither torch nor numpy: the HTTP process refuses bad options with it, before a run is queued.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args, get_origin

from models.errors import InvalidOption

Augmentation = Literal["none", "light", "heavy"]
Schedule = Literal["cosine", "constant"]
BatchNorm = Literal["auto", "eval", "train"]
ClassWeight = Literal["auto", "none", "balanced"]
Monitor = Literal["loss", "score", "end", "none"]
HeadStart = Literal["exact", "random"]
DomainOption = Literal["auto", "similar", "distant"]
Solver = Literal["exact", "adam"]

# number: least and most allowed, both included
BOUNDS: dict[str, tuple[float, float]] = {
    "seed": (0, 2**32 - 1),
    "l2": (1e-5, 1e5),
    "hidden": (1, 8192),
    "epochs": (0, 1000),
    "warmup_epochs": (0, 100),
    "batch_size": (1, 4096),
    "lr": (1e-8, 10.0),
    "warmup_lr": (1e-8, 10.0),
    "decay": (1e-4, 100.0),
    "weight_decay": (0.0, 10.0),
    "label_smoothing": (0.0, 0.9),
    "patience": (1, 1000),
    "max_seconds": (1.0, 30 * 86_400.0),
    "blocks": (1, 1000),
    "unfreeze_every": (1, 1000),
    "input_size": (16, 2048),
    "rank": (1, 4096),
    "alpha": (1e-3, 1e4),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadOptions:
    """Strategy `head`, a linear head fitted to its exact optimum. Raises InvalidOption, as the others."""

    seed: int = 0  # of the split and the folds; the fits draw nothing
    solver: Literal["exact"] = "exact"
    l2: float | None = None  # the penalty, for examples of squared norm 1; None: validation chooses it
    class_weight: ClassWeight = "auto"  # models/strategies/imbalance.py; a regression has none

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdamHeadOptions:
    """Strategy `head` by gradient: linear on embeddings as they come, or an MLP on standardised ones."""

    seed: int = 0  # of the split, the weights and the batches
    solver: Literal["adam"] = "adam"
    hidden: int | None = None  # units between embedding and answer, with ReLU; None: a linear head
    epochs: int = 100  # at most; early stopping ends sooner
    batch_size: int = 32  # examples
    lr: float = 1e-3
    weight_decay: float = 0.01  # decoupled, as AdamW's
    schedule: Schedule = "cosine"
    label_smoothing: float = 0.0  # 0-1; a regression has none
    class_weight: ClassWeight = "auto"
    monitor: Monitor = "score"
    patience: int = 10  # epochs without a better validation, after which training ends
    max_seconds: float | None = None  # for all of the fit; the best so far is kept

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOptions:
    """What all strategies that train a network share. Raises InvalidOption, which names the field."""

    seed: int = 0  # of the split, the batches, the augmentation and dropout
    epochs: int = 12  # at most, after the warm-up; early stopping ends sooner
    warmup_epochs: int = 1  # in which the head trains alone
    warmup_lr: float | None = None  # of the head, meanwhile; None: lr
    head_start: HeadStart = "exact"  # exact: the optimum of strategy head
    batch_size: int = 32  # examples
    lr: float = 1e-3  # of the head
    decay: float = 0.3  # rate of a block over that of the one after it, the head being the last
    weight_decay: float = 0.01  # decoupled, as AdamW's
    schedule: Schedule = "cosine"  # of the rates, after the warm-up
    label_smoothing: float = 0.0  # 0-1; a regression has none
    class_weight: ClassWeight = "auto"  # auto: the rule of strategy head
    augmentation: Augmentation = "light"
    average_flips: bool = False  # answer with the mean logits of the augmentation's flips
    batch_norm: BatchNorm = "auto"  # auto: eval where frozen, and everywhere on little data
    # score, loss: early stopping follows it on validation. end: all epochs are trained, and the last one is
    # kept if it scores above the start there, or else the start. none: the last one is kept
    monitor: Monitor = "score"
    patience: int = 8  # epochs without a better validation, after which training ends
    max_seconds: float | None = None  # for all of the fit; the best so far is kept

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class StagesOptions(TrainingOptions):
    epochs: int = 0  # by gradient, after the exact fit
    warmup_epochs: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LastBlockOptions(TrainingOptions):
    blocks: int = 1  # of the end of the network, in the tail


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneOptions(TrainingOptions):
    epochs: int = 10
    unfreeze_every: int | None = None  # epochs; None: all blocks train once the head is warm
    single_lr: bool = False  # for comparison: one rate for every layer
    pretrained: bool = True  # False, for comparison: from random weights
    input_size: int | None = None  # pixels, of the task's own network; None: the backbone's


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraOptions(TrainingOptions):
    blocks: int = 1
    rank: int = 4
    alpha: float = 8.0  # the update counts alpha / rank times
    lr: float = 3e-4  # of a head that starts at its optimum
    decay: float = 7.0  # factors start at nothing, and have far to go
    monitor: Monitor = "end"  # on its way validation dips below the start, and is best at a low rate


LEAST_BUDGET_S = 10.0  # in which a head of some thousand examples is trained and judged


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoOptions:
    """What may be said to `auto`, which sets the other options itself. Raises InvalidOption."""

    seed: int = 0
    domain: DomainOption = "auto"  # auto: measured
    max_seconds: float = 600.0  # for all rungs together

    def __post_init__(self) -> None:
        check_fields(self)
        if self.max_seconds < LEAST_BUDGET_S:
            raise InvalidOption("max_seconds", f"must be at least {LEAST_BUDGET_S:g} for strategy auto")


Options = HeadOptions | AdamHeadOptions | TrainingOptions | AutoOptions

HEADS: dict[str, type[HeadOptions | AdamHeadOptions]] = {"exact": HeadOptions, "adam": AdamHeadOptions}

OPTIONS: dict[str, type[TrainingOptions] | type[AutoOptions]] = {
    "stages": StagesOptions,
    "last_block": LastBlockOptions,
    "finetune": FinetuneOptions,
    "lora": LoraOptions,
    "auto": AutoOptions,
}


def kind_of(strategy: str, given: Mapping[str, Any]) -> type[Options]:
    """Which options a request has: those of a head are its solver's, which an MLP (`hidden`) implies.

    Raises: InvalidOption: there is no such solver, or it makes no MLP.
    """
    if strategy in OPTIONS:
        return OPTIONS[strategy]
    mlp = given.get("hidden") is not None
    solver = given.get("solver", "adam" if mlp else "exact")
    if solver not in HEADS:
        raise InvalidOption("solver", f"must be one of {', '.join(HEADS)}")
    if mlp and solver == "exact":
        raise InvalidOption("hidden", "needs solver adam: an MLP has no optimum that can be computed exactly")
    return HEADS[solver]


def check_fields(options: Any) -> None:
    """Raises: InvalidOption: a value of another type, no number, or out of bounds."""
    for field in fields(options):
        value = getattr(options, field.name)
        kinds = get_args(field.type) if get_origin(field.type) is not Literal else (field.type,)
        if value is None and type(None) in kinds:
            continue
        if get_origin(field.type) is Literal:
            if value not in get_args(field.type):
                raise InvalidOption(field.name, f"must be one of {', '.join(get_args(field.type))}")
        elif field.type is bool:
            if not isinstance(value, bool):
                raise InvalidOption(field.name, "must be true or false")
        else:
            _check_number(field.name, value, whole=field.type is int or int in kinds)


def _check_number(name: str, value: Any, *, whole: bool) -> None:
    least, most = BOUNDS[name]
    right = isinstance(value, int) or (isinstance(value, float) and not whole)
    if isinstance(value, bool) or not right:
        raise InvalidOption(name, f"must be a {'whole ' if whole else ''}number")
    if not math.isfinite(value) or not least <= value <= most:
        raise InvalidOption(name, f"must be between {least:g} and {most:g}")
