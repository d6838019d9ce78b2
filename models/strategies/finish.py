"""What the gradient strategies have in common, second half: score the test once, refit for serving."""

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from models.arrays import FloatArray, IntArray
from models.blocks import Trainable, count_parameters
from models.evaluate import evaluate
from models.losses import THRESHOLD
from models.strategies.attempt import Attempt, Recipe, attempt_on, scores_of
from models.strategies.budget import Clock
from models.strategies.explore import Candidate, explore
from models.strategies.head import FitResult, inputs_of, rows_in, weighting_record
from models.strategies.start import Chosen
from models.strategies.training import Report, predict

FittedOn = Literal["train+validation", "all", "train"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TunedFit:
    """A served network and its evidence; `fit.head` takes the embeddings of `network`, not the backbone's."""

    fit: FitResult
    network: nn.Module  # what lies below the head: a tail, or all of the backbone
    parameters: Trainable
    validation_ids: tuple[str, ...]
    validation_scores: FloatArray
    factors: dict[str, FloatArray] | None = None  # of strategy lora, by name


def fit(
    recipe: Recipe, *, report: Report, clock: Clock | None = None, min_examples_per_class: int = 2
) -> TunedFit:
    """Train and evaluate one strategy; the same arguments give the same weights.

    Args:   report: called with {"phase", "epoch"?, "epochs"?, "train_loss"?, "validation_loss"?, "score"?,
            "seconds_left"?} as the work goes on; clock: seconds, monotonic; without it nothing is timed.
    Raises: UntrainableData, as `fit_head`.
    """
    candidate = explore(recipe, report=report, clock=clock, min_examples_per_class=min_examples_per_class)
    return finish(candidate, report=report)


def finish(candidate: Candidate, *, report: Report) -> TunedFit:
    """Score the test once, refit for serving; a refit that time doesn't allow is left out."""
    recipe, dataset = candidate.recipe, candidate.recipe.dataset
    if candidate.splits is not None and candidate.folds is not None:
        # no attempt had all of the training examples; the served network saw no test example either
        served, fitted_on = _served(candidate, report)
        report({"phase": "evaluating"})
        tested = rows_in(candidate.splits, "test")
        scores = _answers(recipe, served, tested)
    else:
        report({"phase": "evaluating"})
        tested, scores = _tested(candidate)
        served, fitted_on = _served(candidate, report)
    served.adapted.thaw(len(recipe.blocks), norms_train=False)
    counted = count_parameters(served.adapted.network, served.adapted.head)
    served.adapted.eval().requires_grad_(requires_grad=False).to(memory_format=torch.contiguous_format)
    head = served.adapted.head.folded(dataset.kind, dataset.labels)
    parameters = replace(counted, total=recipe.total_backbone_parameters + head.parameters)
    fit = FitResult(
        head=head,
        splits=candidate.splits,
        split_digest=candidate.split_digest,
        evaluation="test" if candidate.splits is not None else "out_of_fold",
        fitted_on=fitted_on,
        metrics=evaluate(dataset.kind, dataset.labels, dataset.targets[tested], scores),
        history=[
            {**entry, **({"fold": fold + 1} if candidate.folds is not None else {})}
            for fold, attempt in enumerate(candidate.attempts)
            for entry in attempt.trained.history
        ],
        decision=_decision(candidate, served, parameters),
        evaluated_ids=tuple(dataset.ids[row] for row in tested),
        evaluated_scores=scores,
        trainable_parameters=parameters.trainable,
        total_parameters=parameters.total,
        threshold=THRESHOLD if dataset.kind == "multilabel" else None,
    )
    return TunedFit(
        fit=fit,
        network=served.adapted.network,
        parameters=parameters,
        validation_ids=candidate.validation_ids,
        validation_scores=candidate.validation_scores,
    )


def _tested(candidate: Candidate) -> tuple[IntArray, FloatArray]:
    """The rows that the evaluation is made of, and answers by networks that they had no part in."""
    recipe, dataset = candidate.recipe, candidate.recipe.dataset
    if candidate.splits is not None:
        tested = rows_in(candidate.splits, "test")
        scores = _answers(recipe, candidate.attempts[0], tested)
    else:
        assert candidate.folds is not None
        tested = np.arange(len(dataset))
        scores = np.zeros((len(dataset), max(1, len(dataset.labels))), dtype=np.float32)
        for fold, attempt in enumerate(candidate.attempts):
            members = np.flatnonzero(candidate.folds == fold)
            scores[members] = _answers(recipe, attempt, members)
    return tested, scores


def _answers(recipe: Recipe, attempt: Attempt, rows: IntArray) -> FloatArray:
    return scores_of(recipe, predict(attempt.adapted, recipe.source, rows), len(rows))


def _served(candidate: Candidate, report: Report) -> tuple[Attempt, FittedOn]:
    """Refit on all that may be trained on, for as many epochs as were best; where time is up, as tried."""
    recipe, first = candidate.recipe, candidate.attempts[0]
    report({"phase": "refitting"})
    if candidate.splits is not None:
        rows = np.sort(np.concatenate([first.rows, first.held]))
        fitted_on: FittedOn = "train+validation"
    else:
        rows, fitted_on = np.arange(len(recipe.dataset)), "all"
    needed = candidate.epochs * first.trained.seconds_per_epoch * len(rows) / len(first.rows)
    if needed <= candidate.budget.left():
        refitted = attempt_on(
            recipe,
            rows,
            rows[:0],
            candidate.budget,
            lambda said: report({**said, "phase": "refitting"}),
            chosen=_chosen(candidate),
            stop_after=candidate.epochs,
            # the rates come down by then: cut off where they are high, a refit may end anywhere, unseen
            planned=max(0, candidate.epochs - recipe.options.warmup_epochs),
        )
        if refitted.trained.epochs == candidate.epochs:
            return refitted, fitted_on
    return first, "train"


def _chosen(candidate: Candidate) -> Chosen | None:
    """What the refit's exact start takes over from the attempts; None where theirs were random."""
    found = [attempt.chosen for attempt in candidate.attempts if attempt.chosen is not None]
    if not found:
        return None
    strengths = [each.strength for each in found if each.strength is not None]
    return Chosen(
        # of many features the penalty is worth choosing anew, by all of the examples
        strength=None if candidate.recipe.views is not None else float(np.median(strengths)),
        sharpness=float(np.median([each.sharpness for each in found])),
    )


def _decision(candidate: Candidate, served: Attempt, parameters: Trainable) -> dict[str, Any]:
    recipe, first = candidate.recipe, candidate.attempts[0]
    if candidate.splits is not None:
        parts: dict[str, Any] = {
            "split": {name: len(rows_in(candidate.splits, name)) for name in ("train", "validation", "test")}
        }
    else:
        assert candidate.folds is not None
        sizes = np.bincount(candidate.folds).tolist()
        parts = {"folds": {"count": len(sizes), "sizes": sizes}}
    return {
        "inputs": inputs_of(recipe.dataset),
        "evaluation": {"mode": candidate.mode, "because": candidate.because},
        **parts,
        "strategy": recipe.strategy,
        "options": asdict(recipe.options),
        "blocks": [block.name for block in recipe.blocks],
        "parameters": parameters.to_json(),
        "start": "exact head" if recipe.exact_start else "random head",
        "start_strength": served.chosen.strength if served.chosen else None,
        "start_sharpness": served.chosen.sharpness if served.chosen else None,
        "epochs": {
            "served": served.trained.epochs,
            "served_planned": served.trained.planned,
            "planned": [attempt.trained.planned for attempt in candidate.attempts],
            "best": [attempt.trained.epochs for attempt in candidate.attempts],
            "ended_by": [attempt.trained.ended for attempt in candidate.attempts],
            "seconds_each": first.trained.seconds_per_epoch,
        },
        "validation": candidate.validation,
        "class_weighting": weighting_record(served.weighting),
        "warnings": list(candidate.warnings),
    }
