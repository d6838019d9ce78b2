"""One network, from the exact head on: trained on some rows, stopped by others. Imports torch.

`explore` makes one attempt, or one a fold; `finish` one more, on all that may be trained on.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import nn

from models.arrays import FloatArray, IntArray
from models.blocks import Block
from models.dataset import Dataset
from models.head import answers
from models.strategies.adapted import Adapted, ScaledHead, random_head, started_from
from models.strategies.budget import Budget
from models.strategies.imbalance import Weighting, weigh
from models.strategies.linear import SERVING
from models.strategies.objective import objective
from models.strategies.options import TrainingOptions
from models.strategies.sources import FeatureMaps
from models.strategies.strength import DEFAULT, STRENGTHS, Search, fit_one, judge
from models.strategies.training import Lesson, Report, Source, Trained, train

MOST_FEATURES = 2**27  # float32 that an exact head is fitted on: beyond them, on fewer views


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
    strength: float | None  # of the exact head that it started from
    weighting: Weighting


def attempt_on(
    recipe: Recipe,
    rows: IntArray,
    held: IntArray,
    budget: Budget,
    report: Report,
    *,
    reserve: float = 0.0,
    strength: float | None = None,
    stop_after: int | None = None,
    planned: int | None = None,
    keep_last: bool = False,
) -> Attempt:
    """Start from the exact head, train.

    Args: strength: of that head; None: `held` chooses it; the others as of `train`.
    """
    dataset, options = recipe.dataset, recipe.options
    weighting = weigh(dataset.kind, dataset.targets[rows], len(dataset.labels), options.class_weight)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        network = recipe.build().to(memory_format=torch.channels_last)  # as the source gives its inputs
        if recipe.prepare is not None:
            recipe.prepare(network, rows)
        scaled, strength = _head(recipe, rows, held, strength)
    adapted = Adapted(network, recipe.blocks, scaled).to(recipe.device)
    scales = {"centre": scaled.centre, "spread": scaled.spread}
    lesson = Lesson(
        kind=dataset.kind,
        targets=dataset.targets,
        source=recipe.source,
        objective=objective(
            dataset.kind, dataset.targets, weighting, smoothing=options.label_smoothing, **scales
        ),
        options=options,
        unfreeze_every=recipe.unfreeze_every,
        single_lr=recipe.single_lr,
    )
    trained = train(
        adapted,
        lesson,
        rows,
        held,
        judge=objective(dataset.kind, dataset.targets, weighting, **scales),
        budget=budget,
        report=report,
        reserve=reserve,
        stop_after=stop_after,
        planned=planned,
        keep_last=keep_last,
    )
    return Attempt(
        adapted=adapted, trained=trained, rows=rows, held=held, strength=strength, weighting=weighting
    )


def scores_of(recipe: Recipe, logits: FloatArray | None, count: int) -> FloatArray:
    """(m, C) probabilities or (m, 1) values."""
    if logits is None:
        return np.zeros((count, len(recipe.dataset.labels) or 1), dtype=np.float32)
    return answers(recipe.dataset.kind, logits)


def _head(
    recipe: Recipe, rows: IntArray, held: IntArray, strength: float | None
) -> tuple[ScaledHead, float | None]:
    """The head that training begins with, and its strength; a random one has none."""
    start, options = recipe.start or recipe.dataset, recipe.options
    if recipe.views is not None:
        start, rows, held = _of_views(start, recipe.views, rows, held, passes=recipe.source.passes)
    targets = start.targets[rows]
    if not recipe.exact_start:
        width = recipe.width or start.embeddings.shape[1]
        return random_head(start.kind, width, len(start.labels) or 1, targets), strength
    with threadpool_limits(limits=1, user_api="blas"):
        search = Search(class_weight=options.class_weight)
        strength = _strength(start, rows, held, search) if strength is None else strength
        model, _ = fit_one(start, rows, strength, options.class_weight, tolerance=SERVING)
    return started_from(model.head(start.labels), start.embeddings[rows], targets), strength


def _of_views(
    dataset: Dataset, views: FeatureMaps, rows: IntArray, held: IntArray, *, passes: int
) -> tuple[Dataset, IntArray, IntArray]:
    """A dataset in which every view of `rows` is an example, and each of `held` one; where the two are.

    Args: passes: views that an answer is the mean of. A head is linear: that is its answer to their mean.
    """
    width = views.shape[2]
    count = min(views.shape[1], max(1, MOST_FEATURES // (len(rows) * width)))
    every = np.tile(rows, count)
    known = np.asarray(views[every, np.repeat(np.arange(count), len(rows))], dtype=np.float32)
    answered = np.zeros((len(held), width), dtype=np.float32)
    for number in range(passes):
        answered += views[held, np.full(len(held), number)]
    embeddings = np.concatenate([known, answered / passes])
    taken = replace(dataset.take(np.concatenate([every, held])), embeddings=embeddings)
    return taken, np.arange(len(every)), np.arange(len(every), len(embeddings))


def _strength(dataset: Dataset, rows: IntArray, held: IntArray, search: Search) -> float:
    if not len(held):
        return STRENGTHS[DEFAULT]
    (judged,), _ = judge(dataset, rows, [held], search)
    return STRENGTHS[judged.chosen]
