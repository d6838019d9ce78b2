"""What the gradient strategies have in common, first half: split, train, answer validation. Imports torch.

`explore` has not looked at a test example when it ends; `finish` (models/strategies/finish.py) scores the
test once and refits for serving. A choice between strategies is made in between, by validation alone.

Enough examples: train against validation. Too few for a test that means anything: folds, each left out in
turn, the one after it stopping the training.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from models.arrays import FloatArray, IntArray
from models.dataset import SplitName
from models.errors import UntrainableData
from models.evaluate import evaluate
from models.splits import SplitAssignment, assign_folds, assign_splits, folds_within
from models.strategies.attempt import Attempt, Recipe, attempt_on, scores_of
from models.strategies.budget import Budget, Clock
from models.strategies.head import check_train, rows_in
from models.strategies.training import Report
from models.trainable import check_trainable, evaluation_rule

FOLDS = 5
FOLDS_OF_FEW = 3  # each is a training of its own, for a choice alone


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
        """What the served network is trained for: the best, or over folds the median of the best.

        Of an even number the lower one in the middle: between the start and the end lies what no fold chose.
        """
        best = sorted(attempt.trained.epochs for attempt in self.attempts)
        return best[(len(best) - 1) // 2]


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
            that a choice between strategies rests on all of them; a fold is answered by the last epoch,
            since a few examples can't tell which is best.
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
        return replace(
            _over_folds(recipe, rng, budget, report, keep_last=few_validation > 0), mode=mode, because=because
        )
    assigned = assign_splits(dataset, rng)
    check_train(dataset, rows_in(assigned.splits, "train"))
    recipe = replace(recipe, groups=assigned.groups)
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
    """Each fold of train and validation is answered by a network that trained on the others."""
    known = np.flatnonzero(np.array(assigned.splits) != "test")
    count = min(FOLDS_OF_FEW, len(known) // 2)
    numbers = folds_within(recipe.dataset, known, assigned.groups, count, rng)
    parts = [(known[numbers != fold], known[numbers == fold]) for fold in range(count)]
    attempts = _attempts(recipe, parts, budget, report, keep_last=True)
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


def _over_folds(
    recipe: Recipe, rng: np.random.Generator, budget: Budget, report: Report, *, keep_last: bool
) -> Candidate:
    folds = assign_folds(recipe.dataset, FOLDS, rng)
    recipe, numbers = replace(recipe, groups=folds.groups), folds.numbers
    parts = []
    for fold in range(folds.count):
        stopping = (fold + 1) % folds.count
        trained = np.flatnonzero((numbers != fold) & (numbers != stopping))
        parts.append((trained, np.flatnonzero(numbers == stopping)))
    attempts = _attempts(recipe, parts, budget, report, keep_last=keep_last)
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


def _attempts(
    recipe: Recipe,
    parts: Sequence[tuple[IntArray, IntArray]],
    budget: Budget,
    report: Report,
    *,
    keep_last: bool,
) -> list[Attempt]:
    """One a fold. Args: parts: of each fold, the rows that it trains on and those that it answers."""
    count = len(parts)

    def of_fold(number: int) -> Report:
        return lambda said: report({**said, "fold": number + 1, "folds": count})

    return [
        # the refit is one share more
        attempt_on(recipe, rows, held, budget.share(count - number + 1), of_fold(number), keep_last=keep_last)
        for number, (rows, held) in enumerate(parts)
    ]


def _stopped(recipe: Recipe, attempts: Sequence[Attempt]) -> tuple[IntArray, FloatArray]:
    """What each attempt answered to the rows that stopped it."""
    scores = [scores_of(recipe, attempt.trained.logits, len(attempt.held)) for attempt in attempts]
    return np.concatenate([attempt.held for attempt in attempts]), np.concatenate(scores)
