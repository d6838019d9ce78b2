"""The exact head that training by gradient begins with, or that is all there is to train. Imports torch."""

import operator
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
from threadpoolctl import threadpool_limits

from models.arrays import FloatArray, IntArray
from models.dataset import Dataset
from models.splits import folds_within
from models.strategies.adapted import ScaledHead, started_from
from models.strategies.calibration import sharpness
from models.strategies.linear import SERVING
from models.strategies.options import ClassWeight
from models.strategies.sources import FeatureMaps
from models.strategies.strength import DEFAULT, STRENGTHS, Search, fit_one, judge
from models.strategies.training import Report

FOLDS = 5  # of the examples, by which the penalty of a head on many features is chosen
MOST_FEATURES = 2**27  # float32 that it is fitted on: beyond them, on fewer views


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """What examples that an exact head was not fitted on say of it."""

    strength: float | None  # None: to be chosen once more, by the examples that it is fitted on
    sharpness: float = 1.0  # factor of its logits


def start_on_embeddings(
    dataset: Dataset, rows: IntArray, held: IntArray, class_weight: ClassWeight, chosen: Chosen | None
) -> tuple[ScaledHead, Chosen]:
    """Args: rows: that it is fitted on; chosen: None: `held` chooses, where there are any."""
    with threadpool_limits(limits=1, user_api="blas"):
        strength = None if chosen is None else chosen.strength
        if strength is None:
            strength = STRENGTHS[DEFAULT]
            if len(held):
                (judged,), _ = judge(dataset, rows, [held], Search(class_weight=class_weight))
                strength = STRENGTHS[judged.chosen]
        model, _ = fit_one(dataset, rows, strength, class_weight, tolerance=SERVING)
    head = started_from(model.head(dataset.labels), dataset.embeddings[rows], dataset.targets[rows])
    return head, Chosen(strength=strength)


def start_on_views(
    dataset: Dataset,
    views: FeatureMaps,
    rows: IntArray,
    held: IntArray,
    *,
    class_weight: ClassWeight,
    chosen: Chosen | None,
    passes: int,
    groups: IntArray,
    seed: int,
    report: Report,
) -> tuple[ScaledHead, Chosen]:
    """A head of thousands of features, to which every view of `rows` is an example.

    The penalty is chosen in folds of `rows`, by the loss that is left once each candidate is as sure as it
    should be; then `held` says how sure that is. One validation split was seen to err by a factor of three.

    Args: views: (N, V, D); passes: of them, that an answer is the mean of. A head is linear: that is its
          answer to the mean of the features; groups: (N,) what no fold parts; report: called with
          {"phase", "candidate", "candidates"}, by fold.
    """
    count = min(views.shape[1], max(1, MOST_FEATURES // (len(rows) * views.shape[2])))
    every = np.tile(rows, count)
    seen = np.asarray(views[every, np.repeat(np.arange(count), len(rows))], dtype=np.float32)
    answered = _mean(views, np.concatenate([rows, held]), passes)
    taken = replace(
        dataset.take(np.concatenate([every, rows, held])), embeddings=np.concatenate([seen, answered])
    )
    fitted = np.arange(len(every))
    alone, kept_out = np.split(np.arange(len(every), len(taken)), [len(rows)])
    with threadpool_limits(limits=1, user_api="blas"):
        strength = None if chosen is None else chosen.strength
        if strength is None:
            search = Search(class_weight=class_weight, calibrated=True)
            strength = _in_folds(taken, _parts(taken, fitted, alone, groups[rows], seed), search, report)
        model, _ = fit_one(taken, fitted, strength, class_weight, tolerance=SERVING)
    head = model.head(dataset.labels)
    if chosen is None:
        logits = head.logits(taken.embeddings[kept_out])
        sure = sharpness(dataset.kind, taken.targets[kept_out], logits)
    else:
        sure = chosen.sharpness
    head = replace(head, weight=head.weight * sure, bias=head.bias * sure)
    return started_from(head, seen, taken.targets[fitted]), Chosen(strength=strength, sharpness=sure)


Part = tuple[IntArray, IntArray]  # rows of a dataset: to fit on, and to judge by


def _parts(dataset: Dataset, fitted: IntArray, alone: IntArray, groups: IntArray, seed: int) -> list[Part]:
    """Of each fold of the examples, whole groups; none where there are too few.

    Args: fitted: rows of all views, view by view; alone: of the answers to the same m examples;
          groups: (m,) of those.
    """
    count = min(FOLDS, len(np.unique(groups)))
    if count < 2:
        return []
    everyone = np.zeros(len(dataset), dtype=np.int64)
    everyone[alone] = groups
    folds = folds_within(dataset, alone, everyone, count, np.random.default_rng(seed))
    of_views = np.tile(folds, len(fitted) // len(alone))
    return [(fitted[of_views != fold], alone[folds == fold]) for fold in range(count)]


def _in_folds(dataset: Dataset, parts: list[Part], search: Search, report: Report) -> float:
    if not parts:
        return STRENGTHS[DEFAULT]
    judged = []
    for number, (train, held) in enumerate(parts, start=1):
        report({"phase": "fitting", "candidate": number, "candidates": len(parts)})
        judged += judge(dataset, train, [held], search)[0]
    return STRENGTHS[reduce(operator.add, judged).chosen]


def _mean(views: FeatureMaps, rows: IntArray, passes: int) -> FloatArray:
    """(m, D) over the first views."""
    total: FloatArray = np.zeros((len(rows), views.shape[2]), dtype=np.float32)
    for number in range(passes):
        total += views[rows, np.full(len(rows), number)]
    total /= passes
    return total
