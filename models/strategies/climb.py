"""Strategy `auto`: which rung of the ladder is kept, by validation alone.

Rungs come cheapest first. The head is the floor; every other one has to gain more than noise, in right
answers or, where those don't tell, in the loss, which says more of each example. Every comparison is of
two answers to the same validation examples, so that what is hard for both counts for neither.

Answers in, a choice and its record out; imports nothing heavy.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.arrays import FloatArray
from models.dataset import Targets
from models.head import Kind
from models.losses import correct, losses
from models.strategies.calibration import calibrated

FROZEN = frozenset({"head", "stages"})  # rungs that leave the backbone alone: deeper ones may gain regardless
NOISE = 1.0  # standard errors of the paired difference that a rung has to gain

Merit = Callable[[Kind, Targets, FloatArray], NDArray[np.float64]]

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

    mean: float  # above 0 is better
    standard_error: float
    examples: int

    @property
    def beyond_noise(self) -> bool:
        return self.mean > NOISE * self.standard_error

    @property
    def worse_beyond_noise(self) -> bool:
        return self.mean < -NOISE * self.standard_error

    def to_json(self, of: str) -> dict[str, Any]:
        return {"of": of, "mean": self.mean, "standard_error": self.standard_error}


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
        gain = self._gain(merits, tried, best)
        closer = self._gain(closeness, tried, best)
        record["gain"] = {"over": best.name, **gain.to_json(MERITS[self._kind])}
        if self._kind == "multiclass":
            record["loss_gain"] = {"over": best.name, **closer.to_json("cross-entropy")}
        if correct(self._kind, self._targets, best.scores).all():
            kept, why = False, f"{best.name} answers every one of these examples rightly"
        else:
            kept, why = _verdict(gain, closer)
        record["why"] = (
            f"{why}: {gain.mean:+.4f} (standard error {gain.standard_error:.4f}) against {best.name}"
        )
        if kept:
            self.best = tried
        return kept

    def leave_out(self, rung: str, reason: str) -> None:
        self._records.append({"rung": rung, "why": f"not tried: {reason}"})

    @property
    def goes_on(self) -> bool:
        """Whether the next rung is worth trying: the start is ahead, or the last that trained is the best."""
        return not self._started or self._last in FROZEN or self._last == self._best_name

    def record(self) -> dict[str, Any]:
        """The decision record: every candidate, and which was chosen."""
        return {"chosen": self._best_name, "start": self._start, "candidates": list(self._records)}

    @property
    def _best_name(self) -> str | None:
        return None if self.best is None else self.best.name

    def _gain(self, merit: Merit, tried: Tried, best: Tried) -> Gain:
        return paired_gain(
            merit(self._kind, self._targets, tried.scores), merit(self._kind, self._targets, best.scores)
        )


def _verdict(gain: Gain, closer: Gain) -> tuple[bool, str]:
    """Whether a rung is kept, and why."""
    if gain.beyond_noise:
        return True, "it gains more than noise"
    if closer.beyond_noise and not gain.worse_beyond_noise:
        return True, "its loss gains more than noise, and its answers aren't worse than noise"
    return False, "it gains no more than noise"


def paired_gain(merit: NDArray[np.float64], over: NDArray[np.float64]) -> Gain:
    """Mean and standard error of the difference. Args: merit, over: (m,) of the same m >= 1 examples."""
    difference = merit - over
    count = len(difference)
    error = float(difference.std(ddof=1) / np.sqrt(count)) if count > 1 else np.inf
    return Gain(mean=float(difference.mean()), standard_error=error, examples=count)


def merits(kind: Kind, targets: Targets, scores: FloatArray) -> NDArray[np.float64]:
    """(m,): 1 for a right answer, else 0; or minus the cross-entropy; or minus the squared error."""
    if kind == "multiclass":
        return correct(kind, targets, scores).astype(np.float64)
    return closeness(kind, targets, scores)


def closeness(kind: Kind, targets: Targets, scores: FloatArray) -> NDArray[np.float64]:
    """(m,): minus the squared error, or minus what is left of the cross-entropy after calibration.

    Every rung is calibrated on the examples that it is compared on: one that has asked them in its own fit
    would win by that alone.
    """
    if kind == "regression":
        return -np.square(losses(kind, targets, scores))
    return -losses(kind, targets, calibrated(kind, targets, scores))
