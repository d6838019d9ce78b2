"""The choice of a penalty: candidates judged on examples that they were not fitted on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.arrays import FloatArray, IntArray
from models.dataset import Dataset
from models.head import LinearHead, answers
from models.losses import CERTAIN
from models.strategies.basis import Floats, fit_basis
from models.strategies.calibration import sharpness
from models.strategies.imbalance import Weighting, weigh
from models.strategies.linear import CHOOSING, SCORING, SERVING_FLOAT32, LinearModel, fit_path
from models.strategies.options import ClassWeight, HeadOptions

# for examples of squared norm 1, strongest first; at 100, what can't be learned is answered by the mean
STRENGTHS = (100.0, 30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003)
DEFAULT = 5  # STRENGTHS[DEFAULT], where nothing can be judged
PATIENCE = 2  # candidates in a row that were worse, after which weaker ones aren't tried
EXACT = 2**23  # elements of the features up to which the served model is fitted in float64

CRITERIA = {
    "multiclass": "log-loss",
    "multilabel": "binary cross-entropy",
    "regression": "root mean squared error",
}

Progress = Callable[[int, int, float | None], None]  # candidate, candidates, its score if there is one


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What is tried, and how the examples count meanwhile."""

    strengths: tuple[float, ...] = STRENGTHS  # strongest first
    class_weight: ClassWeight = "auto"
    calibrated: bool = False  # judged as if each candidate were as sure as it should be

    @classmethod
    def of(cls, options: HeadOptions) -> "Search":
        strengths = STRENGTHS if options.l2 is None else (options.l2,)
        return cls(strengths=strengths, class_weight=options.class_weight)


TAUGHT = Search()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Judged:
    """Sums of loss and of weight for each candidate, so that folds add up."""

    loss: Floats  # (S,) infinite where the candidate wasn't tried
    weight: Floats  # (S,)

    def __add__(self, other: "Judged") -> "Judged":
        return Judged(loss=self.loss + other.loss, weight=self.weight + other.weight)

    @property
    def chosen(self) -> int:
        """The least mean loss; of equal ones the strongest penalty."""
        return int(np.argmin(self.loss)) if self.weight.min() > 0 else min(DEFAULT, len(self.loss) - 1)

    def scores(self, dataset: Dataset) -> list[float | None]:
        """As CRITERIA says; None where nothing could be judged."""
        means = [
            float(loss / weight) if weight and np.isfinite(loss) else None
            for loss, weight in zip(self.loss, self.weight, strict=True)
        ]
        if dataset.kind == "regression":
            return [None if mean is None else float(np.sqrt(mean)) for mean in means]
        return means


def _nothing_judged(search: Search) -> Judged:
    return Judged(loss=np.zeros(len(search.strengths)), weight=np.zeros(len(search.strengths)))


def judge(
    dataset: Dataset,
    train: IntArray,
    held: Sequence[IntArray],
    search: Search = TAUGHT,
    *,
    at_least: int = 0,
    progress: Progress | None = None,
) -> tuple[list[Judged], list[FloatArray]]:
    """Fit candidates on some rows, strongest first, and judge them on others.

    Weaker ones are not tried once every set of rows has become worse twice in a row: they are the slow
    ones. Examples of a class that `train` has none of are left out: no strength can predict them. The
    others count as they would in training (Weighting).

    Args:    held: sets of rows that are judged apart; at_least: number of a candidate that is tried anyway;
             progress: told each candidate's score on `held[0]`.
    Returns: for each of `held`, the sums; and for each candidate tried, its answers (m, C) to `held[0]`.
    """
    basis = fit_basis(dataset.embeddings[train], np.float32)
    weighting = weigh(dataset.kind, dataset.targets[train], len(dataset.labels), search.class_weight)
    strengths = search.strengths
    projected = [basis.project(dataset.embeddings[rows]) for rows in held]
    loss = np.full((len(held), len(strengths)), np.inf)
    weight = np.ones((len(held), len(strengths)))
    first: list[FloatArray] = []
    path = fit_path(
        dataset.kind, basis, dataset.targets[train], weighting, strengths=strengths, tolerance=CHOOSING
    )
    for candidate, model in enumerate(path):
        for number, rows in enumerate(held):
            logits = model.logits(projected[number])
            if search.calibrated:
                logits = logits * sharpness(dataset.kind, dataset.targets[rows], logits)
            scores = answers(dataset.kind, logits)
            loss[number, candidate], weight[number] = _loss(dataset, rows, scores, weighting)
            if number == 0:
                first.append(scores.astype(np.float32))
        if progress:
            so_far = Judged(loss=loss[0], weight=weight[0]).scores(dataset)
            progress(candidate + 1, len(strengths), so_far[candidate])
        worse = np.diff(loss[:, max(0, candidate - PATIENCE) : candidate + 1]) > 0
        if candidate >= max(PATIENCE, at_least) and worse.all():
            break
    return [Judged(loss=loss[number], weight=weight[number]) for number in range(len(held))], first


def _loss(
    dataset: Dataset, rows: IntArray, scores: NDArray[Any], weighting: Weighting
) -> tuple[float, float]:
    """Weighted sum of the losses of some rows, and the sum of the weights."""
    targets = dataset.targets[rows]
    if dataset.kind == "regression":
        return float(np.square(scores[:, 0] - targets).sum()), float(len(rows))
    bounded = np.clip(scores.astype(np.float64), CERTAIN, 1 - CERTAIN)
    weights = weighting.of(targets)
    if dataset.kind == "multiclass":
        weights = weights * weighting.known[targets]
        losses = -np.log(bounded[np.arange(len(rows)), targets])
    else:
        weights = weights * weighting.known
        losses = -np.log(np.where(targets, bounded, 1 - bounded))
    return float((weights * losses).sum()), float(weights.sum())


def judge_in_folds(
    dataset: Dataset, folds: IntArray, rows: IntArray, search: Search, progress: Progress
) -> Judged:
    """Cross-validation of the candidates over some rows.

    Args: folds: (len(rows),) fold of each row.
    """
    total = _nothing_judged(search)
    numbers = np.unique(folds)
    for fold in numbers:
        (judged,), _ = judge(dataset, rows[folds != fold], [rows[folds == fold]], search)
        total += judged
        progress(int(fold) + 1, len(numbers), total.scores(dataset)[total.chosen])
    return total


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Nested:
    scores: FloatArray  # (N, C) out-of-fold answers
    chosen: list[int]  # for each fold, the candidate that answered
    judged: Judged  # over all folds: what the served model's strength is chosen by


def judge_nested(dataset: Dataset, folds: IntArray, progress: Progress, search: Search = TAUGHT) -> Nested:
    """Out-of-fold answers, each by a model that its example neither trained nor chose.

    The strength for fold f is chosen by models fitted without f and a neighbour, judged on the neighbour.
    Such a model serves both of its folds, so k of them do for k choices, with two neighbours each. A lone
    candidate needs none.

    Args: folds: (N,) in [0, k), k >= 3.
    """
    k = int(folds.max()) + 1
    members = [np.flatnonzero(folds == fold) for fold in range(k)]
    inner = [_nothing_judged(search)] * k
    for fold in range(k if len(search.strengths) > 1 else 0):
        after = (fold + 1) % k
        train = np.flatnonzero((folds != fold) & (folds != after))
        (of_after, of_fold), _ = judge(dataset, train, [members[after], members[fold]], search)
        inner[fold] += of_after
        inner[after] += of_fold
        progress(fold + 1, 2 * k, None)
    total = _nothing_judged(search)
    columns = 1 if dataset.kind == "regression" else len(dataset.labels)
    scores = np.zeros((len(dataset), columns), dtype=np.float32)
    for fold in range(k):
        chosen = inner[fold].chosen
        (judged,), candidates = judge(
            dataset, np.flatnonzero(folds != fold), [members[fold]], search, at_least=chosen
        )
        scores[members[fold]] = candidates[chosen]
        total += judged
        progress(k + fold + 1, 2 * k, total.scores(dataset)[total.chosen])
    return Nested(scores=scores, chosen=[judged.chosen for judged in inner], judged=total)


def in_float64(dataset: Dataset, rows: IntArray) -> bool:
    """Whether `fit_one` computes so precisely that its optimum doesn't depend on where it started."""
    width: int = dataset.embeddings.shape[1]
    return len(rows) * min(len(rows), width) <= EXACT


def fit_one(
    dataset: Dataset,
    rows: IntArray,
    strength: float,
    class_weight: ClassWeight = "auto",
    *,
    tolerance: float = SCORING,
    start: LinearHead | None = None,
) -> tuple[LinearModel, Weighting]:
    """The model of one strength, fitted tightly: it is scored, or served.

    Args: start: as of `fit_path`; not used where rounding would make the optimum depend on it.
    """
    exact = in_float64(dataset, rows)
    basis = fit_basis(dataset.embeddings[rows], np.float64 if exact else np.float32)
    weighting = weigh(dataset.kind, dataset.targets[rows], len(dataset.labels), class_weight)
    path = fit_path(
        dataset.kind,
        basis,
        dataset.targets[rows],
        weighting,
        strengths=(strength,),
        tolerance=tolerance if exact else SERVING_FLOAT32,
        start=start if exact else None,
    )
    return next(path), weighting
