"""Means over seeds, and how far they may be trusted."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import t as student


@dataclass(frozen=True, slots=True)
class Mean:
    """Of values, or of the differences of pairs."""

    value: float
    error: float  # standard error; infinite for a single value
    count: int

    @property
    def half_width(self) -> float:
        """Of the 95 % interval, by Student's distribution: a handful of seeds is few."""
        return float(student.ppf(0.975, self.count - 1)) * self.error if self.count > 1 else math.inf

    def __str__(self) -> str:
        """In percent: `87.7 ± 0.4`."""
        error = f"{100 * self.error:.1f}" if math.isfinite(self.error) else "?"
        return f"{100 * self.value:.1f} ± {error}"


def mean(values: Sequence[float]) -> Mean:
    """Raises: ValueError: there are none."""
    if not values:
        raise ValueError("no values")
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.inf
    return Mean(statistics.fmean(values), error, len(values))


def paired(ours: Sequence[float], theirs: Sequence[float]) -> Mean:
    """Of ours less theirs, seed by seed, so that what is alike within a seed cancels out."""
    return mean([a - b for a, b in zip(ours, theirs, strict=True)])


def no_worse(difference: Mean, *, slack: float = 0.0) -> bool:
    """Whether a mean difference is at least -slack, or not below 0 by more than two standard errors."""
    error = difference.error if math.isfinite(difference.error) else 0.0  # one seed excuses nothing
    return difference.value >= -max(slack, 2 * error)
