"""How sure a head should be: one factor of its logits (temperature scaling, Guo et al. 2017).

A penalty is best chosen by what is left of the loss once the factor is right, and the factor set afterwards
(Berta et al. 2025, Rethinking Early Stopping: Refine, Then Calibrate): where labels are noisy, the loss alone
asks for a stronger penalty, whose answers are wrong more often.
"""

import math
from typing import Any

from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from models.dataset import Targets
from models.head import Kind, answers
from models.losses import losses

MOST = 4.0  # a factor's bound, and one over its least


def sharpness(kind: Kind, targets: Targets, logits: NDArray[Any]) -> float:
    """The factor of the logits at which the mean loss is least; 1 for a regression, or of no examples.

    Args: targets: as in Dataset; logits: (m, C), of a head that the m examples were not fitted on.
    """
    if kind == "regression" or not len(logits):
        return 1.0

    def loss(exponent: float) -> float:
        scaled: Any = logits * math.exp(exponent)
        return float(losses(kind, targets, answers(kind, scaled)).mean())

    bound = math.log(MOST)
    found: Any = minimize_scalar(loss, bounds=(-bound, bound), method="bounded")
    return math.exp(float(found.x))
