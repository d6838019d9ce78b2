"""One network, from the exact head on: trained on some rows, stopped by others. Imports torch.

`explore` makes one attempt, or one a fold; `finish` one more, on all that may be trained on.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from models.arrays import FloatArray, IntArray
from models.blocks import Block
from models.dataset import Dataset
from models.head import answers
from models.strategies.adapted import Adapted, ScaledHead, random_head
from models.strategies.budget import Budget
from models.strategies.imbalance import Weighting, weigh
from models.strategies.objective import Objective, objective
from models.strategies.options import TrainingOptions
from models.strategies.sources import FeatureMaps
from models.strategies.start import Chosen, start_on_embeddings, start_on_views
from models.strategies.training import Lesson, Report, Source, Trained, train


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Recipe:
    """One strategy, ready to be tried."""

    strategy: str
    dataset: Dataset
    source: Source
    build: Callable[[], nn.Module]  # a fresh network: inputs of the source -> embedding (n, D)
    blocks: tuple[Block, ...]  # that may train, earliest first; names in what `build` gives
    options: TrainingOptions
    total_backbone_parameters: int
    unfreeze_every: int | None = None
    single_lr: bool = False
    exact_start: bool = True
    start: Dataset | None = None  # the same with the embeddings of `build`'s network, where those are others
    views: FeatureMaps | None = None  # (N, V, D) those embeddings of every view: the exact head is of all
    groups: IntArray | None = None  # (N,) what no fold may part; known once the data is split
    width: int | None = None  # of what `build` gives; None: the backbone's embeddings
    prepare: Callable[[Any, IntArray], None] | None = None  # tells what `build` gave the rows it trains on
    device: str = "cpu"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Attempt:
    """One network, trained on some rows and stopped by others."""

    adapted: Adapted
    trained: Trained
    rows: IntArray
    held: IntArray
    chosen: Chosen | None  # of the exact head that it started from
    weighting: Weighting


def attempt_on(
    recipe: Recipe,
    rows: IntArray,
    held: IntArray,
    budget: Budget,
    report: Report,
    *,
    reserve: float = 0.0,
    chosen: Chosen | None = None,
    stop_after: int | None = None,
    planned: int | None = None,
    keep_last: bool = False,
) -> Attempt:
    """Start from the exact head, train.

    Args: chosen: of that head; None: `held` chooses it; the others as of `train`.
    """
    dataset, options = recipe.dataset, recipe.options
    weighting = weigh(dataset.kind, dataset.targets[rows], len(dataset.labels), options.class_weight)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        network = recipe.build().to(memory_format=torch.channels_last)  # as the source gives its inputs
        if recipe.prepare is not None:
            recipe.prepare(network, rows)
        scaled, chosen = _head(recipe, rows, held, chosen, report)
    adapted = Adapted(network, recipe.blocks, scaled).to(recipe.device)
    trained = train(
        adapted,
        _lesson(recipe, weighting, scaled),
        rows,
        held,
        judge=_objective(recipe, weighting, scaled),
        budget=budget,
        report=report,
        reserve=reserve,
        stop_after=stop_after,
        planned=planned,
        keep_last=keep_last,
    )
    return Attempt(adapted=adapted, trained=trained, rows=rows, held=held, chosen=chosen, weighting=weighting)


def _lesson(recipe: Recipe, weighting: Weighting, head: ScaledHead) -> Lesson:
    return Lesson(
        kind=recipe.dataset.kind,
        targets=recipe.dataset.targets,
        source=recipe.source,
        objective=_objective(recipe, weighting, head, smoothing=recipe.options.label_smoothing),
        options=recipe.options,
        unfreeze_every=recipe.unfreeze_every,
        single_lr=recipe.single_lr,
    )


def _objective(
    recipe: Recipe, weighting: Weighting, head: ScaledHead, *, smoothing: float = 0.0
) -> Objective:
    dataset = recipe.dataset
    return objective(
        dataset.kind, dataset.targets, weighting, smoothing=smoothing, centre=head.centre, spread=head.spread
    )


def scores_of(recipe: Recipe, logits: FloatArray | None, count: int) -> FloatArray:
    """(m, C) probabilities or (m, 1) values."""
    if logits is None:
        return np.zeros((count, len(recipe.dataset.labels) or 1), dtype=np.float32)
    return answers(recipe.dataset.kind, logits)


def _head(
    recipe: Recipe, rows: IntArray, held: IntArray, chosen: Chosen | None, report: Report
) -> tuple[ScaledHead, Chosen | None]:
    """The head that training begins with, and what was chosen for it; for a random one nothing is."""
    start, options = recipe.start or recipe.dataset, recipe.options
    if not recipe.exact_start:
        width = recipe.width or start.embeddings.shape[1]
        return random_head(start.kind, width, len(start.labels) or 1, start.targets[rows]), chosen
    if recipe.views is None:
        return start_on_embeddings(start, rows, held, options.class_weight, chosen)
    return start_on_views(
        start,
        recipe.views,
        rows,
        held,
        class_weight=options.class_weight,
        chosen=chosen,
        passes=recipe.source.passes,
        groups=np.arange(len(start)) if recipe.groups is None else recipe.groups,
        seed=options.seed,
        report=report,
    )
