"""What a measurement says: its rounds, the figure that is compared, and whether the goal is reached."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from bench.neighbours import DISTURBED


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound of goals.md for a row's figure."""

    bound: float
    better: Literal["higher", "lower"]
    unit: str = "x"

    def reached(self, figure: float) -> bool:
        return figure >= self.bound if self.better == "higher" else figure <= self.bound

    def __str__(self) -> str:
        return f"{'≥' if self.better == 'higher' else '≤'} {self.bound:g} {self.unit}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table."""

    name: str
    unit: str  # of `values`
    values: dict[str, list[float]]  # contender or variant -> one number a round
    compared: str  # what `figures` are: "polyhead / limit"
    figures: list[float]  # one a round, each of values of the same round
    goal: Goal | None = None
    figure_unit: str = "x"
    notes: list[str] = field(default_factory=list)
    others: float | None = None  # 0-1: of the cores, what others used meanwhile; None: not known

    @property
    def figure(self) -> float:
        return statistics.median(self.figures)

    @property
    def disturbed(self) -> bool:
        return self.others is not None and self.others > DISTURBED

    @property
    def reached(self) -> bool | None:
        return self.goal.reached(self.figure) if self.goal else None


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Round by round, so that what slowed a whole round down cancels out."""
    return [a / b for a, b in zip(above, below, strict=True)]


def differences(above: Sequence[float], below: Sequence[float]) -> list[float]:
    return [a - b for a, b in zip(above, below, strict=True)]


def shown(numbers: Sequence[float]) -> str:
    """Median and range: `131 (118-140)`."""
    middle = number(statistics.median(numbers))
    return middle if len(numbers) == 1 else f"{middle} ({number(min(numbers))}-{number(max(numbers))})"


def number(value: float) -> str:
    """Three digits, as far as they mean something."""
    size = abs(value)
    return f"{value:.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.2f}"


def percentile(numbers: Sequence[float], share: float) -> float:
    """The value below which `share` (0-1) of the numbers are: the nearest that was measured."""
    ordered = sorted(numbers)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
