"""Strategy `auto`: which rung of the ladder is kept, by validation alone.

Rungs come cheapest first. The head is the floor. The rung that the rule starts from is believed until
validation says that it is worse; one beyond it has to gain more than noise. Every comparison is of two
answers to the same validation examples, so that what is hard for both counts for neither.

Answers in, a choice and its record out; imports nothing heavy.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.arrays import FloatArray
from models.dataset import Targets
from models.head import Kind
from models.losses import correct, losses

NOISE = 1.0  # standard errors of the paired difference that a rung beyond the start has to gain

MERITS = {
    "multiclass": "accuracy",
    "multilabel": "mean binary cross-entropy",
    "regression": "mean squared error",
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tried:
    """What one rung answered to the validation examples, none of which it was fitted on."""

    name: str  # "last_block"
    options: dict[str, Any]
    scores: FloatArray  # (m, C) probabilities or (m, 1) values
    record: dict[str, Any] = field(default_factory=dict)  # what else is to be known of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """How much better a rung answers than another, on the same examples."""

    mean: float  # of MERITS, above 0 is better
    standard_error: float
    examples: int

    @property
    def beyond_noise(self) -> bool:
        return self.mean > NOISE * self.standard_error


class Climb:
    """The best rung so far, and why."""

    def __init__(self, kind: Kind, targets: Targets, *, start: str) -> None:
        """Args: targets: of the validation examples, as in Dataset; start: name of the rule's first rung."""
        self._kind, self._targets, self._start = kind, targets, start
        self._started = False
        self._last: str | None = None  # that was tried
        self._records: list[dict[str, Any]] = []
        self.best: Tried | None = None

    def consider(self, tried: Tried) -> bool:
        """Hold a rung against the best so far. Returns: whether it is the best now."""
        best, self._last = self.best, tried.name
        self._started = self._started or tried.name == self._start
        record: dict[str, Any] = {
            "rung": tried.name,
            "options": tried.options,
            **tried.record,
        }
        self._records.append(record)
        if best is None:
            record["why"] = "the floor: whatever else is tried has to be better"
            self.best = tried
            return True
        gain = paired_gain(self._kind, self._targets, tried.scores, best.scores)
        kept = gain.mean >= 0 if tried.name == self._start else gain.beyond_noise
        record["gain"] = {
            "over": best.name,
            "of": MERITS[self._kind],
            "mean": gain.mean,
            "standard_error": gain.standard_error,
        }
        record["why"] = self._why(tried, best, gain, kept=kept)
        if kept:
            self.best = tried
        return kept

    def leave_out(self, rung: str, reason: str) -> None:
        self._records.append({"rung": rung, "why": f"not tried: {reason}"})

    @property
    def goes_on(self) -> bool:
        """Whether the next rung is worth trying: the start is ahead, or the last one tried is the best."""
        return not self._started or self._last == self._best_name

    def record(self) -> dict[str, Any]:
        """The decision record: every candidate, and which was chosen."""
        return {"chosen": self._best_name, "start": self._start, "candidates": list(self._records)}

    @property
    def _best_name(self) -> str | None:
        return None if self.best is None else self.best.name

    def _why(self, tried: Tried, best: Tried, gain: Gain, *, kept: bool) -> str:
        amount = f"{gain.mean:+.4f} (standard error {gain.standard_error:.4f}) against {best.name}"
        if tried.name == self._start:
            expected = "the rule expects it to be best"
            return (
                f"{expected}, and it isn't worse: {amount}"
                if kept
                else f"{expected}, but it is worse: {amount}"
            )
        return f"it gains more than noise: {amount}" if kept else f"it gains no more than noise: {amount}"


def paired_gain(kind: Kind, targets: Targets, scores: FloatArray, over: FloatArray) -> Gain:
    """Mean and standard error of the difference of each example's merit.

    Args: scores, over: (m, C) or (m, 1), of the same m >= 1 examples.
    """
    difference = merits(kind, targets, scores) - merits(kind, targets, over)
    count = len(difference)
    error = float(difference.std(ddof=1) / np.sqrt(count)) if count > 1 else np.inf
    return Gain(mean=float(difference.mean()), standard_error=error, examples=count)


def merits(kind: Kind, targets: Targets, scores: FloatArray) -> NDArray[np.float64]:
    """(m,): 1 for a right answer, else 0; or minus the cross-entropy; or minus the squared error."""
    if kind == "multiclass":
        return correct(kind, targets, scores).astype(np.float64)
    if kind == "multilabel":
        return -losses(kind, targets, scores)
    return -np.square(losses(kind, targets, scores))
