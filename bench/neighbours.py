"""How much of the cores others took while something was measured.

On a shared machine the scheduler gives each runnable thread its turn, so a server of several processes gets
more than a bare loop in one, and ratios of wall time flatter it. A row says how much others took, and what
was measured beside too much of it is marked as disturbed.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

DISTURBED = 0.1  # of the cores
BUSY_FIELDS = (1, 2, 3, 6, 7, 8)  # of /proc/stat: user, nice, system, irq, softirq, steal
TICKS = os.sysconf("SC_CLK_TCK")


class Neighbours:
    """Everything on the machine but the processes that `own` counts."""

    def __init__(self, own: Callable[[], float]) -> None:
        """Args: own: seconds of CPU that our processes have used so far; they must live on until `share`."""
        self._own = own
        self._before = own()
        self._all = all_cpu_s()
        self._at = time.monotonic()

    def share(self) -> float:
        """Of all cores, what others used since the start: 0-1."""
        others = all_cpu_s() - self._all - (self._own() - self._before)
        return max(0.0, others / (os.cpu_count() or 1) / (time.monotonic() - self._at))


def all_cpu_s() -> float:
    """Seconds that all cores were busy since the machine started, what the host took away included."""
    said = Path("/proc/stat").read_text("utf-8").splitlines()[0].split()
    return sum(int(said[field]) for field in BUSY_FIELDS) / TICKS
