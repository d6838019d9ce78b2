"""Metrics of answers to examples that nothing was fitted on; JSON values, None where undefined."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn import metrics

from models.arrays import FloatArray
from models.dataset import Targets
from models.head import Kind
from models.losses import THRESHOLD, correct, losses

__all__ = ["Comparison", "align_scores", "compare", "correct", "evaluate", "interval", "losses"]

RESAMPLES = 400  # of the bootstrap behind an interval
COVERED = (2.5, 97.5)  # percentiles: a 95 % interval

PRIMARY = {
    "multiclass": ("accuracy", True),
    "multilabel": ("mean_average_precision", True),
    "regression": ("rmse", False),
}


def evaluate(kind: Kind, labels: tuple[str, ...], targets: Targets, scores: FloatArray) -> dict[str, Any]:
    """All metrics of one evaluation.

    A class without an example here has no recall and no F1 (None), is left out of every mean over
    classes, and is named in `classes_without_examples`. A class that is never predicted has precision 0.

    Args:   targets: as in Dataset, of N >= 1 examples; scores: (N, C) probabilities or (N, 1) values.
    Raises: ValueError: there are no examples.
    """
    if len(targets) == 0:
        raise ValueError("there are no examples to evaluate on")
    if kind == "multiclass":
        measured = _multiclass(labels, targets, scores)
    elif kind == "multilabel":
        measured = _multilabel(labels, targets, scores)
    else:
        measured = _regression(targets, scores)
    name, higher_is_better = PRIMARY[kind]
    primary = {"name": name, "value": measured[name], "higher_is_better": higher_is_better}
    return {"primary": primary, "count": len(targets), **measured}


def _multiclass(labels: tuple[str, ...], targets: Targets, scores: FloatArray) -> dict[str, Any]:
    numbers = np.arange(len(labels))
    predicted = scores.argmax(axis=1)
    table = _per_class(labels, targets, predicted, numbers)
    counts = metrics.confusion_matrix(targets, predicted, labels=numbers)
    return {
        "accuracy": float(np.mean(predicted == targets)),
        "balanced_accuracy": _mean(row["recall"] for row in table),
        "macro_f1": _mean(row["f1"] for row in table),
        "log_loss": float(losses("multiclass", targets, scores).mean()),
        "per_class": table,
        "confusion_matrix": {"labels": list(labels), "counts": counts.tolist()},
        "classes_without_examples": _unseen(table),
    }


def _multilabel(labels: tuple[str, ...], targets: Targets, scores: FloatArray) -> dict[str, Any]:
    predicted = scores >= THRESHOLD
    # int, not bool: one column of bool is read as the labels of a binary task
    table = _per_class(labels, targets.astype(int), predicted.astype(int), np.arange(len(labels)))
    for column, row in enumerate(table):
        row["average_precision"] = (
            float(metrics.average_precision_score(targets[:, column], scores[:, column]))
            if row["support"]
            else None
        )
    return {
        "mean_average_precision": _mean(row["average_precision"] for row in table),
        "macro_f1": _mean(row["f1"] for row in table),
        "subset_accuracy": float((predicted == targets).all(axis=1).mean()),
        "log_loss": float(losses("multilabel", targets, scores).mean()),
        "per_class": table,
        "classes_without_examples": _unseen(table),
    }


def _regression(targets: Targets, scores: FloatArray) -> dict[str, Any]:
    values = scores[:, 0].astype(np.float64)
    spread = len(targets) > 1 and float(np.ptp(targets)) > 0
    return {
        "mae": float(metrics.mean_absolute_error(targets, values)),
        "rmse": float(metrics.root_mean_squared_error(targets, values)),
        "r2": float(metrics.r2_score(targets, values)) if spread else None,
    }


def _per_class(
    labels: tuple[str, ...], targets: Targets, predicted: Targets, numbers: Targets
) -> list[dict[str, Any]]:
    if targets.ndim == 2 and targets.shape[1] == 1:  # scikit-learn takes one column for a binary task
        targets, predicted, numbers = targets[:, 0], predicted[:, 0], np.array([1])
    columns = metrics.precision_recall_fscore_support(
        targets, predicted, labels=numbers, average=None, zero_division=0
    )
    return [
        {
            "label": label,
            "precision": float(precision),
            "recall": float(recall) if support else None,
            "f1": float(f1) if support else None,
            "support": int(support),
        }
        for label, precision, recall, f1, support in zip(labels, *columns, strict=True)
    ]


def _mean(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def _unseen(table: list[dict[str, Any]]) -> list[str]:
    return [row["label"] for row in table if not row["support"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two versions on the same examples."""

    metric: str
    new: float | None  # None: undefined on these examples
    old: float | None
    better: bool  # the new one, strictly
    count: int  # examples


def compare(kind: Kind, targets: Targets, scores_new: FloatArray, scores_old: FloatArray) -> Comparison:
    """Whether new answers beat old ones on the task's primary metric.

    Args:   scores_new, scores_old: of the same N >= 1 examples, with the same columns (`align_scores`).
    Raises: ValueError: there are no examples.
    """
    labels = tuple(str(column) for column in range(scores_new.shape[1]))
    new, old = (evaluate(kind, labels, targets, scores)["primary"] for scores in (scores_new, scores_old))
    better = (
        new["value"] is not None
        and old["value"] is not None
        and (new["value"] > old["value"] if new["higher_is_better"] else new["value"] < old["value"])
    )
    return Comparison(
        metric=new["name"], new=new["value"], old=old["value"], better=better, count=len(targets)
    )


def interval(
    kind: Kind, labels: tuple[str, ...], targets: Targets, scores: FloatArray
) -> tuple[float, float] | None:
    """95 % of the primary metric, by the percentile bootstrap over the examples; None where it is undefined.

    Source: Efron and Tibshirani 1993, chapter 13.
    """
    rng = np.random.default_rng(0)
    found = []
    for _ in range(RESAMPLES):
        rows = rng.integers(0, len(targets), len(targets))
        value = _primary(kind, labels, targets[rows], scores[rows])
        if value is not None:
            found.append(float(value))
    if not found:
        return None
    low, high = np.percentile(found, COVERED)
    return float(low), float(high)


def _primary(kind: Kind, labels: tuple[str, ...], targets: Targets, scores: FloatArray) -> float | None:
    """As `evaluate` gives it, without the report of all metrics, which takes many times as long."""
    if kind == "multiclass":
        return float(correct(kind, targets, scores).mean())
    if kind == "multilabel":
        return _mean(
            metrics.average_precision_score(targets[:, column], scores[:, column])
            for column in range(len(labels))
            if targets[:, column].any()
        )
    return float(metrics.root_mean_squared_error(targets, scores[:, 0].astype(np.float64)))


def align_scores(scores: FloatArray, labels: Sequence[str], onto: Sequence[str]) -> FloatArray:
    """Columns of `labels` (N, C) in the order of `onto` (N, C'), 0 for a class it doesn't know."""
    column = {label: number for number, label in enumerate(labels)}
    aligned = np.zeros((len(scores), len(onto)), dtype=np.float32)
    for number, label in enumerate(onto):
        if label in column:
            aligned[:, number] = scores[:, column[label]]
    return aligned
