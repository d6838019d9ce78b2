"""Strategy `head`: the backbone stays as it is, a linear model is fitted on its embeddings.

Enough examples: split, choose the strength on validation, score once on test, refit on train and
validation. Too few for a test split that means anything: nested cross-validation gives every example an
answer that it had no part in, and what is served is fitted on all.

No early stopping, no augmentation, no clock; the caller stores and times.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from threadpoolctl import threadpool_limits

from models.arrays import FloatArray, IntArray
from models.dataset import SPLITS, Dataset, SplitName
from models.errors import UntrainableData
from models.evaluate import evaluate
from models.head import LinearHead
from models.losses import THRESHOLD
from models.splits import assign_folds, assign_splits, folds_within
from models.strategies.imbalance import RULES, Weighting
from models.strategies.linear import SERVING, LinearModel
from models.strategies.options import HeadOptions
from models.strategies.strength import (
    CRITERIA,
    Judged,
    Nested,
    Search,
    fit_one,
    in_float64,
    judge,
    judge_in_folds,
    judge_nested,
)
from models.trainable import check_trainable, evaluation_rule

FOLDS = 5
FOLDS_OF_MANY = 3
MANY = 5_000  # examples above which 3 folds do

NOTHING = "nothing"  # where the fit of the served head began
PREVIOUS = "previous head"

Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FitResult:
    head: LinearHead
    splits: tuple[SplitName, ...] | None  # of every example; None: evaluated out of fold, none assigned
    split_digest: str  # sha256 over (id, split) or (id, fold)
    evaluation: Literal["test", "out_of_fold"]
    fitted_on: Literal["train+validation", "all", "train"]  # what is served; train: no time for more
    metrics: dict[str, Any]  # of `evaluated_scores`
    history: list[dict[str, Any]]  # one entry a candidate
    decision: dict[str, Any]  # what was chosen, by what rule, from what
    evaluated_ids: tuple[str, ...]
    evaluated_scores: FloatArray  # (M, C) probabilities or (M, 1) values
    trainable_parameters: int
    total_parameters: int
    threshold: float | None  # 0-1, multilabel


def fit_head(
    dataset: Dataset,
    options: HeadOptions,
    *,
    total_backbone_parameters: int,
    report: Report,
    min_examples_per_class: int = 2,
    start: LinearHead | None = None,
) -> FitResult:
    """Train and evaluate a head; the same arguments give the same head, bit for bit.

    Args:   report: called with {"phase", "candidate"?, "candidates"?, "score"?} as the work goes on;
            start: an earlier head of the same task, from which the served one is reached sooner; ignored
            where it is of no use. What is scored never starts from it: it may have seen test examples.
    Raises: UntrainableData: too few classes or examples, or the user's splits leave too few to train on.
    """
    check_trainable(dataset.kind, dataset.per_class, len(dataset), min_examples_per_class)
    if dataset.kind == "regression" and np.ptp(dataset.targets) == 0:
        raise UntrainableData("all examples have the same value: add some with another")
    # one thread is twice as fast on 400 examples; on many, several are slower wherever something else runs
    with threadpool_limits(limits=1, user_api="blas"):
        mode, because = evaluation_rule(dataset.kind, dataset.per_class, len(dataset), set(dataset.splits))
        rng = np.random.default_rng(options.seed)
        fit = _out_of_fold if mode == "out_of_fold" else _held_out
        result = fit(dataset, Search.of(options), rng, report, _usable(start, dataset))
    total = total_backbone_parameters + result.trainable_parameters
    decision = {
        "inputs": inputs_of(dataset),
        "solver": options.solver,
        "evaluation": {"mode": mode, "because": because},
        "parameters": {
            "trainable": result.trainable_parameters,
            "total": total,
            "by_name": {"head.weight": result.head.weight.size, "head.bias": result.head.bias.size},
        },
        **result.decision,
    }
    return replace(result, decision=decision, total_parameters=total)


def _usable(start: LinearHead | None, dataset: Dataset) -> LinearHead | None:
    """A ridge regression has a closed form, and needs none."""
    if start is None or dataset.kind == "regression" or start.kind != dataset.kind:
        return None
    fits = start.labels == dataset.labels and start.weight.shape == (
        len(dataset.labels), dataset.embeddings.shape[1]
    )  # fmt: skip
    finite = np.isfinite(start.weight).all() and np.isfinite(start.bias).all()
    return start if fits and finite else None


def inputs_of(dataset: Dataset) -> dict[str, Any]:
    return {
        "examples": len(dataset),
        "classes": len(dataset.labels),
        "per_class": dataset.per_class,
        "embedding_dim": dataset.embeddings.shape[1],
        "user_groups": len({group for group in dataset.groups if group is not None}),
        "splits_given": sum(dataset.split_by_user),
    }


def _held_out(
    dataset: Dataset, search: Search, rng: np.random.Generator, report: Report, start: LinearHead | None
) -> FitResult:
    report({"phase": "splitting"})
    assigned = assign_splits(dataset, rng)
    rows = {name: rows_in(assigned.splits, name) for name in SPLITS}
    train, validation, test = rows["train"], rows["validation"], rows["test"]
    check_train(dataset, train)
    report({"phase": "fitting"})
    if len(validation):
        (judged,), _ = judge(dataset, train, [validation], search, progress=_progress(report))
        chosen_by = "validation"
    else:  # the user left none: the training examples must do
        folds = folds_within(dataset, train, assigned.groups, min(FOLDS, len(train)), rng)
        judged = judge_in_folds(dataset, folds, train, search, _progress(report))
        chosen_by = "cross-validation within train"
    strength, class_weight = search.strengths[judged.chosen], search.class_weight
    report({"phase": "evaluating"})
    scored, _ = fit_one(dataset, train, strength, class_weight)
    scores = scored.head(dataset.labels).predict(dataset.embeddings[test])
    report({"phase": "refitting"})
    fitted = np.sort(np.concatenate([train, validation]))
    served, weighting, began = _serve(dataset, fitted, search, judged, start)
    return _result(
        dataset,
        head=served.head(dataset.labels),
        rows=test,
        scores=scores,
        splits=assigned.splits,
        split_digest=assigned.digest,
        history=_history(dataset, search, judged),
        decision={
            "split": {name: len(members) for name, members in rows.items()},
            "start": began,
            "strength": _choice(dataset, search, judged, chosen_by),
            "class_weighting": weighting_record(weighting),
            "warnings": list(assigned.warnings),
        },
    )


def _out_of_fold(
    dataset: Dataset, search: Search, rng: np.random.Generator, report: Report, start: LinearHead | None
) -> FitResult:
    report({"phase": "splitting"})
    folds = assign_folds(dataset, FOLDS if len(dataset) <= MANY else FOLDS_OF_MANY, rng)
    report({"phase": "fitting"})
    nested = judge_nested(dataset, folds.numbers, _progress(report), search)
    report({"phase": "refitting"})
    everything = np.arange(len(dataset))
    served, weighting, began = _serve(dataset, everything, search, nested.judged, start)
    ignored = (
        [f"{given} splits given are not used: too few examples for a test split"]
        if (given := sum(split is not None for split in dataset.splits))
        else []
    )
    return _result(
        dataset,
        head=served.head(dataset.labels),
        rows=everything,
        scores=nested.scores,
        splits=None,
        split_digest=folds.digest,
        history=_history(dataset, search, nested.judged),
        decision={
            "start": began,
            "folds": {"count": folds.count, "sizes": np.bincount(folds.numbers).tolist()},
            "strength": _choice(dataset, search, nested.judged, "cross-validation") | _inner(search, nested),
            "class_weighting": weighting_record(weighting),
            "warnings": [*folds.warnings, *ignored],
        },
    )


def _serve(
    dataset: Dataset, rows: IntArray, search: Search, judged: Judged, start: LinearHead | None
) -> tuple[LinearModel, Weighting, str]:
    """The model that is served, and where its fit began."""
    usable = start if in_float64(dataset, rows) else None
    strength = search.strengths[judged.chosen]
    served, weighting = fit_one(dataset, rows, strength, search.class_weight, tolerance=SERVING, start=usable)
    return served, weighting, NOTHING if usable is None else PREVIOUS


def rows_in(splits: tuple[SplitName, ...], name: SplitName) -> IntArray:
    return np.array([row for row, split in enumerate(splits) if split == name], dtype=np.int64)


def check_train(dataset: Dataset, train: IntArray) -> None:
    if len(train) < 2:
        raise UntrainableData(
            f"the train split has {len(train)} examples and needs two: give fewer to validation and test"
        )
    if dataset.kind == "multiclass" and len(np.unique(dataset.targets[train])) < 2:
        raise UntrainableData("the train split has examples of one class only: put others there too")


def _progress(report: Report) -> Callable[[int, int, float | None], None]:
    def progress(candidate: int, candidates: int, score: float | None) -> None:
        said = {} if score is None else {"score": score}
        report({"phase": "fitting", "candidate": candidate, "candidates": candidates, **said})

    return progress


def _history(dataset: Dataset, search: Search, judged: Judged) -> list[dict[str, Any]]:
    return [
        {"strength": strength, "score": score}
        for strength, score in zip(search.strengths, judged.scores(dataset), strict=True)
    ]


def _choice(dataset: Dataset, search: Search, judged: Judged, chosen_by: str) -> dict[str, Any]:
    given = len(search.strengths) == 1
    return {
        "chosen": search.strengths[judged.chosen],
        "chosen_by": "the request" if given else chosen_by,
        "criterion": CRITERIA[dataset.kind],
        "candidates": _history(dataset, search, judged),
        "at_edge": not given and judged.chosen in (0, len(search.strengths) - 1),
    }


def _inner(search: Search, nested: Nested) -> dict[str, Any]:
    return {"chosen_per_fold": [search.strengths[chosen] for chosen in nested.chosen]}


def weighting_record(weighting: Weighting) -> dict[str, Any]:
    return {
        "rule": RULES[weighting.rule],
        "ratio": weighting.ratio,
        "applied": weighting.applied,
    }


def _result(
    dataset: Dataset,
    *,
    head: LinearHead,
    rows: IntArray,
    scores: FloatArray,
    splits: tuple[SplitName, ...] | None,
    split_digest: str,
    history: list[dict[str, Any]],
    decision: dict[str, Any],
) -> FitResult:
    return FitResult(
        head=head,
        splits=splits,
        split_digest=split_digest,
        evaluation="out_of_fold" if splits is None else "test",
        fitted_on="all" if splits is None else "train+validation",
        metrics=evaluate(dataset.kind, dataset.labels, dataset.targets[rows], scores),
        history=history,
        decision=decision,
        evaluated_ids=tuple(dataset.ids[row] for row in rows),
        evaluated_scores=scores,
        trainable_parameters=head.parameters,
        total_parameters=head.parameters,
        threshold=THRESHOLD if dataset.kind == "multilabel" else None,
    )
