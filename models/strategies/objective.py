"""What training by gradient minimises: weighted, smoothed cross-entropy or squared error. Imports torch."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from models.arrays import IntArray
from models.dataset import Targets
from models.head import Kind
from models.strategies.imbalance import Weighting

Objective = Callable[[Tensor, IntArray], Tensor]  # logits (n, C), rows (n,) -> mean loss, ()


def objective(
    kind: Kind,
    targets: Targets,
    weighting: Weighting,
    *,
    smoothing: float = 0.0,
    centre: float = 0.0,
    spread: float = 1.0,
) -> Objective:
    """Args: targets: of all examples; centre, spread: of a regression's training targets."""
    if kind == "regression":
        values = torch.from_numpy((targets.astype(np.float64) - centre) / spread).float()
        return lambda logits, rows: functional.mse_loss(logits[:, 0], _at(values, rows, logits))
    weights = torch.from_numpy(weighting.of(targets)).float()
    known = torch.from_numpy(weighting.known)
    if kind == "multiclass":
        return _softmax(torch.from_numpy(targets), weights, known, smoothing)
    return _sigmoid(torch.from_numpy(targets).float(), weights * known, smoothing)


def _softmax(targets: Tensor, weights: Tensor, known: Tensor, smoothing: float) -> Objective:
    # smoothing spreads over the classes that training has seen: the others are to stay unlikely
    even = known.float() / known.sum().clamp(min=1)

    def loss(logits: Tensor, rows: IntArray) -> Tensor:
        true = _at(targets, rows, logits)
        logarithms = logits.log_softmax(dim=1)  # (n, C)
        own = logarithms.gather(1, true[:, None])[:, 0]
        likelihood = (1 - smoothing) * own
        if smoothing:
            likelihood = likelihood + smoothing * (logarithms * even.to(logits.device)).sum(dim=1)
        counted = _at(weights, rows, logits) * known.to(logits.device)[true]
        return -(counted * likelihood).mean()

    return loss


def _sigmoid(targets: Tensor, weights: Tensor, smoothing: float) -> Objective:
    def loss(logits: Tensor, rows: IntArray) -> Tensor:
        wanted = _at(targets, rows, logits) * (1 - smoothing) + smoothing / 2
        return functional.binary_cross_entropy_with_logits(logits, wanted, weight=_at(weights, rows, logits))

    return loss


def _at(values: Tensor, rows: IntArray, like: Tensor) -> Tensor:
    return values[torch.from_numpy(rows)].to(like.device)
