"""What each answer cost: the per-example loss, and whether it was right."""

import numpy as np
from numpy.typing import NDArray

from models.arrays import BoolArray, FloatArray
from models.dataset import Targets
from models.head import Kind

THRESHOLD = 0.5  # of a multilabel answer, where its version sets none
CERTAIN = 1e-7  # a probability is taken as at least this, so that a loss is finite


def losses(kind: Kind, targets: Targets, scores: FloatArray) -> NDArray[np.float64]:
    """(N,) cross-entropy, or mean binary cross-entropy over the labels, or absolute error.

    Args: targets: as in Dataset; scores: (N, C) probabilities or (N, 1) values.
    """
    if kind == "regression":
        return np.abs(targets.astype(np.float64) - scores[:, 0])
    bounded = np.clip(scores.astype(np.float64), CERTAIN, 1 - CERTAIN)
    if kind == "multiclass":
        return np.asarray(-np.log(bounded[np.arange(len(targets)), targets]))
    return np.asarray(-np.log(np.where(targets, bounded, 1 - bounded)).mean(axis=1))


def correct(kind: Kind, targets: Targets, scores: FloatArray) -> BoolArray:
    """(N,): the best class is the true one, or all labels are right at 0.5; never for a regression."""
    if kind == "multiclass":
        return np.asarray(scores.argmax(axis=1) == targets)
    if kind == "multilabel":
        return np.asarray(((scores >= THRESHOLD) == targets).all(axis=1))
    return np.zeros(len(targets), dtype=np.bool_)
