"""What the gradient strategies have in common, first half: split, train, answer validation. Imports torch.

`explore` has not looked at a test example when it ends; `finish` (models/strategies/finish.py) scores the
test once and refits for serving. A choice between strategies is made in between, by validation alone.

Enough examples: train against validation. Too few for a test that means anything: folds, each left out in
turn, the one after it stopping the training.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import nn

from models.arrays import FloatArray, IntArray
from models.blocks import Block
from models.dataset import Dataset, SplitName
from models.errors import UntrainableData
from models.evaluate import evaluate
from models.head import answers
from models.splits import SplitAssignment, assign_folds, assign_splits, folds_within
from models.strategies.adapted import Adapted, random_head, started_from
from models.strategies.budget import Budget, Clock
from models.strategies.head import check_train, rows_in
from models.strategies.imbalance import Weighting, weigh
from models.strategies.linear import SERVING
from models.strategies.objective import objective
from models.strategies.options import TrainingOptions
from models.strategies.strength import DEFAULT, STRENGTHS, Search, fit_one, judge
from models.strategies.training import Lesson, Report, Source, Trained, train
from models.trainable import check_trainable, evaluation_rule

FOLDS = 5


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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidate:
    """A strategy that has been tried, its test still unseen."""

    recipe: Recipe
    mode: str  # "test" or "out_of_fold"
    because: str
    attempts: tuple[Attempt, ...]  # one, or one a fold
    splits: tuple[SplitName, ...] | None
    folds: IntArray | None
    split_digest: str
    warnings: tuple[str, ...]
    validation_rows: IntArray  # what a choice may be made by
    validation_scores: FloatArray  # (m, C), by networks that these rows stopped but didn't train
    budget: Budget

    @property
    def validation_ids(self) -> tuple[str, ...]:
        return tuple(self.recipe.dataset.ids[row] for row in self.validation_rows)

    @property
    def validation(self) -> dict[str, Any] | None:
        """The primary metric on validation."""
        dataset, rows = self.recipe.dataset, self.validation_rows
        if not len(rows):
            return None
        metrics = evaluate(dataset.kind, dataset.labels, dataset.targets[rows], self.validation_scores)
        return {**metrics["primary"], "count": len(rows)}

    @property
    def epochs(self) -> int:
        """What the served network is trained for: the best, or over folds the median of the best."""
        return int(np.median([attempt.trained.epochs for attempt in self.attempts]))


def explore(
    recipe: Recipe,
    *,
    report: Report,
    clock: Clock | None = None,
    min_examples_per_class: int = 2,
    few_validation: int = 0,
) -> Candidate:
    """Split, train, answer validation.

    Args:   few_validation: examples, below which train and validation are answered in folds instead, so
            that a choice between strategies rests on all of them.
    Raises: UntrainableData, as `fit_head`.
    """
    dataset, options = recipe.dataset, recipe.options
    check_trainable(dataset.kind, dataset.per_class, len(dataset), min_examples_per_class)
    if dataset.kind == "regression" and np.ptp(dataset.targets) == 0:
        raise UntrainableData("all examples have the same value: add some with another")
    budget = Budget.of(options.max_seconds, clock)
    mode, because = evaluation_rule(dataset.kind, dataset.per_class, len(dataset), set(dataset.splits))
    rng = np.random.default_rng(options.seed)
    report({"phase": "splitting"})
    if mode == "out_of_fold":
        return replace(_over_folds(recipe, rng, budget, report), mode=mode, because=because)
    assigned = assign_splits(dataset, rng)
    check_train(dataset, rows_in(assigned.splits, "train"))
    validation = rows_in(assigned.splits, "validation")
    chosen_by_user = any(dataset.split_by_user[row] for row in validation)
    few = len(validation) < few_validation and not chosen_by_user
    tried = (
        _cross_validated(recipe, assigned, rng, budget, report)
        if few
        else _held_out(recipe, assigned, budget, report)
    )
    return replace(tried, mode=mode, because=because)


def _held_out(recipe: Recipe, assigned: SplitAssignment, budget: Budget, report: Report) -> Candidate:
    train_rows, validation = (rows_in(assigned.splits, name) for name in ("train", "validation"))
    reserve = (len(train_rows) + len(validation)) / len(train_rows) if len(validation) else 0.0
    attempt = attempt_on(recipe, train_rows, validation, budget, report, reserve=reserve)
    unstopped = ("there are no validation examples: training ran for all its epochs",)
    return Candidate(
        recipe=recipe,
        mode="",
        because="",
        attempts=(attempt,),
        splits=assigned.splits,
        folds=None,
        split_digest=assigned.digest,
        warnings=assigned.warnings + (() if len(validation) else unstopped),
        validation_rows=validation,
        validation_scores=scores_of(recipe, attempt.trained.logits, len(validation)),
        budget=budget,
    )


def _cross_validated(
    recipe: Recipe, assigned: SplitAssignment, rng: np.random.Generator, budget: Budget, report: Report
) -> Candidate:
    """Each fold of train and validation stops, and is answered by, a network that trained on the others."""
    known = np.flatnonzero(np.array(assigned.splits) != "test")
    count = min(FOLDS, len(known) // 2)
    numbers = folds_within(recipe.dataset, known, assigned.groups, count, rng)
    attempts = [
        attempt_on(
            recipe,
            known[numbers != fold],
            known[numbers == fold],
            budget.share(count - fold + 1),  # the refit is one more
            _of_fold(report, fold, count),
        )
        for fold in range(count)
    ]
    rows, scores = _stopped(recipe, attempts)
    return Candidate(
        recipe=recipe,
        mode="",
        because="",
        attempts=tuple(attempts),
        splits=assigned.splits,
        folds=numbers,
        split_digest=assigned.digest,
        warnings=assigned.warnings,
        validation_rows=rows,
        validation_scores=scores,
        budget=budget,
    )


def _over_folds(recipe: Recipe, rng: np.random.Generator, budget: Budget, report: Report) -> Candidate:
    folds = assign_folds(recipe.dataset, FOLDS, rng)
    numbers = folds.numbers
    attempts = []
    for fold in range(folds.count):
        stopping = (fold + 1) % folds.count
        attempt = attempt_on(
            recipe,
            np.flatnonzero((numbers != fold) & (numbers != stopping)),
            np.flatnonzero(numbers == stopping),
            budget.share(folds.count - fold + 1),  # the refit is one more
            _of_fold(report, fold, folds.count),
        )
        attempts.append(attempt)
    rows, scores = _stopped(recipe, attempts)
    return Candidate(
        recipe=recipe,
        mode="",
        because="",
        attempts=tuple(attempts),
        splits=None,
        folds=numbers,
        split_digest=folds.digest,
        warnings=folds.warnings,
        validation_rows=rows,
        validation_scores=scores,
        budget=budget,
    )


def _of_fold(report: Report, fold: int, count: int) -> Report:
    return lambda said: report({**said, "fold": fold + 1, "folds": count})


def _stopped(recipe: Recipe, attempts: Sequence[Attempt]) -> tuple[IntArray, FloatArray]:
    """What each attempt answered to the rows that stopped it."""
    scores = [scores_of(recipe, attempt.trained.logits, len(attempt.held)) for attempt in attempts]
    return np.concatenate([attempt.held for attempt in attempts]), np.concatenate(scores)


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
) -> Attempt:
    """Start from the exact head, train. Args: strength: of that head; None: `held` chooses it."""
    dataset, options = recipe.dataset, recipe.options
    start = recipe.start or dataset
    targets = dataset.targets[rows]
    weighting = weigh(dataset.kind, targets, len(dataset.labels), options.class_weight)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        network = recipe.build().to(memory_format=torch.channels_last)  # as the source gives its inputs
        if recipe.prepare is not None:
            recipe.prepare(network, rows)
        if recipe.exact_start:
            with threadpool_limits(limits=1, user_api="blas"):
                search = Search(class_weight=options.class_weight)
                strength = _strength(start, rows, held, search) if strength is None else strength
                head, _ = fit_one(start, rows, strength, options.class_weight, tolerance=SERVING)
            scaled = started_from(head.head(dataset.labels), start.embeddings[rows], targets)
        else:
            width = recipe.width or start.embeddings.shape[1]
            scaled = random_head(dataset.kind, width, len(dataset.labels) or 1, targets)
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
    )
    return Attempt(
        adapted=adapted, trained=trained, rows=rows, held=held, strength=strength, weighting=weighting
    )


def scores_of(recipe: Recipe, logits: FloatArray | None, count: int) -> FloatArray:
    """(m, C) probabilities or (m, 1) values."""
    if logits is None:
        return np.zeros((count, len(recipe.dataset.labels) or 1), dtype=np.float32)
    return answers(recipe.dataset.kind, logits)


def _strength(dataset: Dataset, rows: IntArray, held: IntArray, search: Search) -> float:
    if not len(held):
        return STRENGTHS[DEFAULT]
    (judged,), _ = judge(dataset, rows, [held], search)
    return STRENGTHS[judged.chosen]
