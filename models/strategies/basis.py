"""Standardised features in a basis as small as the examples allow.

An L2 penalty doesn't change under rotation, so a model of n standardised examples of D features has the
same optimum in min(n, D) orthogonal coordinates: 240 instead of 1,280. Nothing is approximated.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

from models.arrays import FloatArray

Floats = NDArray[np.float64]
Reduced = NDArray[np.floating[Any]]  # float32 or float64, as the basis was asked for

EXACT = 2**22  # elements of the examples up to which they are turned in float64
ROWS = 4096  # standardised at a time, so that a large float32 array needs no float64 copy
NOTHING = 1e-6  # a feature's spread, of the largest one's, at which it counts as constant
LEAST_SCALE = 0.3  # of the median spread of the features that vary; see _scale
FLAT = 1e-10  # a direction's power, of the largest one's, at which it is only rounding


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Basis:
    """The map x -> ((x - mean) / scale) @ rotation, and the examples that it was made from."""

    mean: Floats  # (D,)
    scale: Floats  # (D,) standard deviation, or _scale's least, times sqrt(D): a squared norm is about 1
    rotation: Floats  # (D, r)
    features: Reduced  # (n, r), the columns orthogonal
    power: Floats  # (r,) squared norms of the columns

    def project(self, embeddings: FloatArray) -> Reduced:
        """(m, D) float32 -> (m, r)."""
        kind = self.features.dtype
        return ((embeddings - self.mean.astype(kind)) / self.scale.astype(kind)) @ self.rotation.astype(kind)

    def unfold(self, coefficients: Floats, bias: Floats) -> tuple[Floats, Floats]:
        """Coefficients (r, C), bias (C,) of the features -> weight (C, D), bias (C,) of raw embeddings."""
        weight = (self.rotation @ coefficients / self.scale[:, None]).T
        return weight, bias - weight @ self.mean

    def fold(self, weight: Floats, bias: Floats) -> tuple[Floats, Floats]:
        """The inverse of `unfold`, where the basis spans the weight; else what of it the basis can say."""
        return self.rotation.T @ (self.scale[:, None] * weight.T), bias + weight @ self.mean


def fit_basis(embeddings: FloatArray, precision: type[np.floating[Any]]) -> Basis:
    """Args: embeddings: (n, D) float32, n >= 1; precision: of the features, np.float32 or np.float64."""
    count, width = embeddings.shape
    mean, scale = standardisation(embeddings)
    scale = scale * np.sqrt(width)
    if count <= width:
        standardised = (embeddings - mean) / scale  # (n, D) float64: n <= D, so it is small
        power, left = eigh(standardised @ standardised.T, driver="evd", check_finite=False)
        kept = power > max(FLAT * power[-1], np.finfo(np.float64).tiny)
        power, left = power[kept], left[:, kept]
        rotation = standardised.T @ (left / np.sqrt(power))
        features = left * np.sqrt(power)
    else:
        narrow = np.float64 if count * width <= EXACT else precision
        shrunk = (embeddings - mean.astype(narrow)) / scale.astype(narrow)
        power, rotation = eigh((shrunk.T @ shrunk).astype(np.float64), driver="evd", check_finite=False)
        power = np.maximum(power, 0)
        features = shrunk @ rotation.astype(narrow)
    return Basis(
        mean=mean,
        scale=scale,
        rotation=rotation,
        features=np.ascontiguousarray(features, dtype=precision),
        power=power,
    )


def standardisation(embeddings: FloatArray) -> tuple[Floats, Floats]:
    """What is subtracted from each feature, and what it is then divided by: (D,) each."""
    mean = embeddings.mean(axis=0, dtype=np.float64)
    return mean, _scale(_spread(embeddings, mean))


def _spread(embeddings: FloatArray, mean: Floats) -> Floats:
    squares = np.zeros_like(mean)
    for start in range(0, len(embeddings), ROWS):
        squares += np.square(embeddings[start : start + ROWS] - mean).sum(axis=0)
    return np.asarray(np.sqrt(squares / len(embeddings)))


def _scale(spread: Floats) -> Floats:
    """What each feature is divided by: its spread, but for those that hardly vary.

    A feature after a ReLU may be 0 in nearly all examples that a head is fitted on. Divided by that spread,
    an ordinary value of it counts for thousands of deviations (64,184 were seen, on solar cells), and one
    such image gets a value far outside all others'.
    """
    varies = spread > NOTHING * spread.max(initial=0)
    if not varies.any():
        return np.ones_like(spread)
    return np.where(varies, np.maximum(spread, LEAST_SCALE * np.median(spread[varies])), 1.0)
