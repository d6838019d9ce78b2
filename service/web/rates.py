"""How often a key may ask: a bucket of a minute's requests for each, in this process alone.

Several processes or replicas have a bucket each, so that together they let through as many times more as
there are of them: no request waits for a database to be counted.
"""

import math
import time
from collections.abc import Callable

from service.errors import RateLimited

PERIOD_S = 60.0
CAPACITY = 16_384  # buckets that aren't full; full ones need no memory


class Rates:
    """Used by the event loop alone."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._full_at: dict[str, float] = {}  # by key: when its bucket will have filled up again
        self._swept_at = CAPACITY  # buckets at which those that have filled up are looked for

    def admit(self, key: str, per_minute: int) -> None:
        """Take a request out of the key's bucket. A refused one takes nothing.

        Raises: RateLimited: it is empty.
        Source: the generic cell rate algorithm, ITU-T I.371, in its form as virtual scheduling.
        """
        now, refill_s = self._clock(), PERIOD_S / per_minute
        full_at = max(self._full_at.get(key, now), now)
        wait_s = full_at + refill_s - PERIOD_S - now
        if wait_s > 1e-6:  # sums of refills are off by less
            raise RateLimited(per_minute, retry_after_s=math.ceil(wait_s))
        self._full_at[key] = full_at + refill_s
        if len(self._full_at) > self._swept_at:
            self._full_at = {key: at for key, at in self._full_at.items() if at > now}
            self._swept_at = max(CAPACITY, 2 * len(self._full_at))
