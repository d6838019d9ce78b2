"""Which state of a training is kept, by what validation says of each epoch."""

import math
from dataclasses import dataclass
from typing import Any

from models.arrays import FloatArray
from models.strategies.options import Monitor

Rank = tuple[float, float]  # of two epochs the higher one is better


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reached:
    """Where an epoch came to."""

    epoch: int  # 0: the start
    rank: Rank
    state: dict[str, Any]  # tensors by name, of all that training may have moved
    logits: FloatArray  # (m, C) of the rows held out


class Keeping:
    """The best epoch so far; or the last one, in whose place the start may be kept in the end."""

    def __init__(self, monitor: Monitor, *, last: bool) -> None:
        """Args: last: the last epoch is kept, whatever validation says."""
        self._monitor = monitor
        self._or_start = monitor == "end" and not last
        self.last = last or monitor in {"none", "end"}  # all epochs are trained
        self._start: Reached | None = None
        self.best: Reached | None = None

    def rank(self, loss: float, score: float | None, *, higher_is_better: bool) -> Rank:
        """Args: loss, score: on validation; score: None where none is defined."""
        if not math.isfinite(loss):
            return -math.inf, -math.inf  # whatever its answers score, they are no numbers
        if self._monitor == "loss" or score is None:
            return -loss, 0.0
        by_score = score if higher_is_better else -score
        # of the same answers the end is the surer one, which isn't the better one
        return by_score, 0.0 if self._monitor == "end" else -loss

    def better(self, rank: Rank) -> bool:
        """Whether an epoch of that rank is to be noted: a copy of a state costs memory."""
        return self.best is None or self.last or rank > self.best.rank

    def note(self, reached: Reached) -> None:
        if self.best is None and self._or_start:
            self._start = reached
        self.best = reached

    def settled(self) -> Reached | None:
        """What is kept of all; of an end that is no better than the start, that. None: none was held out."""
        if self._start and self.best and self.best.rank <= self._start.rank:
            self.best = self._start
        return self.best
