"""How sure a head should be: one factor of its logits (temperature scaling, Guo et al. 2017).

A penalty is best chosen by what is left of the loss once the factor is right, and the factor set afterwards
(Berta et al. 2025, Rethinking Early Stopping: Refine, Then Calibrate): where labels are noisy, the loss alone
asks for a stronger penalty, whose answers are wrong more often.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.dataset import Targets
from models.head import Kind, answers
from models.losses import CERTAIN, losses

MOST = 4.0  # a factor's bound, and one over its least


def sharpness(kind: Kind, targets: Targets, logits: NDArray[Any]) -> float:
    """The factor of the logits at which the mean loss is least; 1 for a regression, or of no examples.

    Args: targets: as in Dataset; logits: (m, C), of a head that the m examples were not fitted on.
    """
    if kind == "regression" or not len(logits):
        return 1.0
    # Late: a trainer that waits for work does without it.
    from scipy.optimize import minimize_scalar  # noqa: PLC0415

    def loss(exponent: float) -> float:
        scaled: Any = logits * math.exp(exponent)
        return float(losses(kind, targets, answers(kind, scaled)).mean())

    bound = math.log(MOST)
    found: Any = minimize_scalar(loss, bounds=(-bound, bound), method="bounded")
    return math.exp(float(found.x))


def calibrated(kind: Kind, targets: Targets, scores: NDArray[Any]) -> NDArray[Any]:
    """Answers as sure as they should be, by the very examples that they are answers to.

    Args:    targets: as in Dataset; scores: (m, C) probabilities, or (m, 1) values, which stay as they are.
    Returns: (m, C) float64, each row in the same order.
    """
    if kind == "regression":
        return scores
    bounded = np.clip(scores.astype(np.float64), CERTAIN, 1 - CERTAIN)
    logits: Any = np.log(bounded)
    if kind == "multilabel":
        logits -= np.log1p(-bounded)
    return answers(kind, logits * sharpness(kind, targets, logits))
