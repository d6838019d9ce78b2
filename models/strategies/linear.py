"""Linear models in a basis: multinomial logistic, independent logistic, ridge; all with an L2 penalty.

The objective is scikit-learn's: a sum over the examples plus strength / 2 times the squared weights, the
bias free; a test holds both optima together. A nested evaluation is some hundred fits, so each starts from
its stronger neighbour, in coordinates scaled by the curvature there. LogisticRegression on the same basis,
warm-started, takes 1.3 to 2 times as long, and fits a multilabel task label by label (3 times).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from models.arrays import IntArray
from models.dataset import Targets
from models.head import Kind, LinearHead
from models.strategies.basis import Basis, Floats, Reduced
from models.strategies.imbalance import Weighting

CHOOSING = 1e-4  # relative decrease of the loss at which a candidate's fit ends
SCORING = 1e-8  # the same, for the model that is scored
SERVING = 1e-10  # the same, for the model that is served: wherever it starts, answers agree to 1e-4
SERVING_FLOAT32 = 1e-7  # below it, rounding makes line searches fail
UNSEEN = -30.0  # logit of a class that training has not seen; the others' mean is 0
LEAST_CURVATURE = 1e-6
MAX_STEPS = 1000

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LinearModel:
    kind: Kind
    basis: Basis
    strength: float
    coefficients: Floats  # (r, C)
    bias: Floats  # (C,)

    def logits(self, projected: Reduced) -> Reduced:
        """(m, r) of the basis -> (m, C)."""
        kind = projected.dtype
        return projected @ self.coefficients.astype(kind) + self.bias.astype(kind)

    def head(self, labels: tuple[str, ...]) -> LinearHead:
        weight, bias = self.basis.unfold(self.coefficients, self.bias)
        return LinearHead(
            kind=self.kind, labels=labels, weight=weight.astype(np.float32), bias=bias.astype(np.float32)
        )


def fit_path(
    kind: Kind,
    basis: Basis,
    targets: Targets,
    weighting: Weighting,
    *,
    strengths: Sequence[float],
    tolerance: float,
    start: LinearHead | None = None,
) -> Iterator[LinearModel]:
    """One model for each strength, from the strongest on.

    Args: targets: (n,) or (n, C), of the basis' own examples; strengths: descending; start: a head of the
          same classes that the first model begins at, if that is better than nothing.
    """
    if kind == "regression":
        yield from _ridge_path(basis, targets, strengths)
        return
    known = np.flatnonzero(weighting.known)
    weights = weighting.of(targets)
    objective: _Objective
    if kind == "multiclass":
        renumbered = np.searchsorted(known, targets)
        objective = _Softmax(renumbered, weights.astype(basis.features.dtype))
    else:
        objective = _Sigmoid(targets[:, known], weights[:, known].astype(basis.features.dtype))
    solution = np.zeros((len(basis.power) + 1, len(known)))  # the last row is the bias
    if start is not None and len(known):
        solution = _better(objective, basis, strengths[0], _started(basis, start, known), solution)
    for strength in strengths:
        if len(known):
            solution = _minimise(objective, basis, strength, solution, tolerance)
        coefficients = np.zeros((len(basis.power), len(weighting.known)))
        coefficients[:, known] = solution[:-1]
        bias = _unseen_bias(kind, targets, weighting)
        # a softmax doesn't change with a common shift; centred, UNSEEN is far below the best class
        bias[known] = solution[-1] - (solution[-1].mean() if kind == "multiclass" else 0.0)
        yield LinearModel(kind=kind, basis=basis, strength=strength, coefficients=coefficients, bias=bias)


def _started(basis: Basis, start: LinearHead, known: IntArray) -> Floats:
    """(r + 1, K); a class that the head hadn't seen begins at nothing."""
    weight, bias = start.weight[known].astype(np.float64), start.bias[known].astype(np.float64)
    coefficients, shift = basis.fold(weight, bias)
    return np.vstack([coefficients, np.where(weight.any(axis=1), shift, 0.0)])


def _better(
    objective: "_Objective", basis: Basis, strength: float, offered: Floats, nothing: Floats
) -> Floats:
    """Labels may have changed since, so that the old head is worse than none."""

    def loss(solution: Floats) -> float:
        logits = basis.features @ solution[:-1].astype(basis.features.dtype)
        logits += solution[-1].astype(basis.features.dtype)
        return objective.loss(logits)[0] + 0.5 * strength * float(np.vdot(solution[:-1], solution[:-1]))

    return offered if loss(offered) < loss(nothing) else nothing


def _unseen_bias(kind: Kind, targets: Targets, weighting: Weighting) -> Floats:
    """Logits of classes that can't be learned: never; of a label that is always there, always."""
    bias = np.full(len(weighting.known), UNSEEN)
    if kind == "multilabel":
        bias[targets.all(axis=0)] = -UNSEEN
    return bias


def _ridge_path(basis: Basis, targets: Targets, strengths: Sequence[float]) -> Iterator[LinearModel]:
    """Closed form: the columns of the features are orthogonal."""
    centre = float(targets.mean())
    spread = float(targets.std()) or 1.0  # a constant target has nothing to scale
    correlation = basis.features.T.astype(np.float64) @ ((targets - centre) / spread)  # (r,)
    for strength in strengths:
        coefficients = spread * correlation / (basis.power + strength)
        yield LinearModel(
            kind="regression",
            basis=basis,
            strength=strength,
            coefficients=coefficients[:, None],
            bias=np.array([centre]),
        )


class _Objective(Protocol):
    def loss(self, logits: Array) -> tuple[float, Array]:
        """Weighted sum over the examples, and its gradient (n, K); `logits` is overwritten."""

    def curvature(self, logits: Array) -> Floats:
        """(K,): mean second derivative by the class' own logit; `logits` is overwritten."""


class _Softmax:
    def __init__(self, targets: IntArray, weights: Array) -> None:
        self.targets = targets  # (n,)
        self.weights = weights  # (n,)
        self.rows = np.arange(len(targets))

    def loss(self, logits: Array) -> tuple[float, Array]:
        logits -= logits.max(axis=1, keepdims=True)
        own = logits[self.rows, self.targets]
        total = self._normalise(logits)
        value = np.dot(self.weights.astype(np.float64), (np.log(total) - own).astype(np.float64))
        logits[self.rows, self.targets] -= 1
        logits *= self.weights[:, None]
        return float(value), logits

    def curvature(self, logits: Array) -> Floats:
        logits -= logits.max(axis=1, keepdims=True)
        self._normalise(logits)
        return np.asarray((self.weights[:, None] * logits * (1 - logits)).mean(axis=0, dtype=np.float64))

    @staticmethod
    def _normalise(logits: Array) -> Array:
        np.exp(logits, out=logits)
        total = logits.sum(axis=1)
        logits /= total[:, None]
        return np.asarray(total)


class _Sigmoid:
    def __init__(self, targets: Array, weights: Array) -> None:
        self.targets = targets.astype(weights.dtype)  # (n, K)
        self.weights = weights  # (n, K)

    def loss(self, logits: Array) -> tuple[float, Array]:
        softplus = np.maximum(logits, 0) + np.log1p(np.exp(-np.abs(logits)))
        value = np.sum(self.weights * (softplus - self.targets * logits), dtype=np.float64)
        return float(value), self.weights * (0.5 * (1 + np.tanh(0.5 * logits)) - self.targets)

    def curvature(self, logits: Array) -> Floats:
        likely = 0.5 * (1 + np.tanh(0.5 * logits))
        return np.asarray((self.weights * likely * (1 - likely)).mean(axis=0, dtype=np.float64))


def _minimise(
    objective: _Objective, basis: Basis, strength: float, start: Floats, tolerance: float
) -> Floats:
    """L-BFGS in coordinates in which the curvature at `start` is about 1.

    The features are orthogonal, so the curvature there is diagonal but for the classes' coupling: a class'
    mean second derivative times the column's power, plus the strength.

    Args: start: (r + 1, K), the bias last. Returns: the same shape.
    """
    features = basis.features

    def logits_of(solution: Floats) -> Array:
        scores = features @ solution[:-1].astype(features.dtype, copy=False)
        scores += solution[-1].astype(features.dtype, copy=False)
        return scores

    curvature = np.maximum(objective.curvature(logits_of(start)), LEAST_CURVATURE)  # (K,)
    stretch = np.sqrt(
        np.vstack([np.outer(basis.power, curvature) + strength, len(features) * curvature[None, :]])
    )  # (r + 1, K)

    def value(flat: Floats) -> tuple[float, Floats]:
        solution = flat.reshape(start.shape) / stretch
        loss, slope = objective.loss(logits_of(solution))
        gradient = np.empty_like(solution)
        gradient[:-1] = features.T @ slope
        gradient[:-1] += strength * solution[:-1]
        gradient[-1] = slope.sum(axis=0)
        gradient /= stretch
        return loss + 0.5 * strength * float(np.vdot(solution[:-1], solution[:-1])), gradient.ravel()

    options = {"maxcor": 10, "ftol": tolerance, "gtol": 0.0, "maxiter": MAX_STEPS, "maxfun": 2 * MAX_STEPS}
    found = minimize(value, (start * stretch).ravel(), jac=True, method="L-BFGS-B", options=options)
    return np.asarray(found.x.reshape(start.shape) / stretch)
