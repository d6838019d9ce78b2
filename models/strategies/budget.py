"""How much time a fit may still take, by a clock that is handed in."""

import math
from collections.abc import Callable
from dataclasses import dataclass

Clock = Callable[[], float]  # seconds, monotonic


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    clock: Clock | None  # None: time isn't known, and nothing ends for lack of it
    end: float = math.inf  # seconds, by the clock

    @classmethod
    def of(cls, seconds: float | None, clock: Clock | None) -> "Budget":
        if seconds is None or clock is None:
            return cls(clock=clock)
        return cls(clock=clock, end=clock() + seconds)

    def now(self) -> float:
        return self.clock() if self.clock else 0.0

    def left(self) -> float:
        """Seconds, infinite without a limit."""
        return self.end - self.now()

    def share(self, parts: int) -> "Budget":
        """One of several equal parts of what is left, beginning now."""
        return Budget(clock=self.clock, end=self.now() + self.left() / parts)
