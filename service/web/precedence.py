"""Who goes first in an API process: predictions, whose callers wait, before uploads."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TypeVar

RECENT_S = 1.0  # after a prediction, in which the next one is expected
PATIENCE_S = 0.02  # that an image of an upload waits, at most: so an upload ends under any load

Item = TypeVar("Item")


class Precedence:
    """Counts the predictions in work here, and parts the work of uploads so that it gets out of their way."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._predictions = 0
        self._last = -math.inf  # of the clock, when one was in work
        self._nothing_waits = asyncio.Event()
        self._nothing_waits.set()

    @contextmanager
    def predicting(self) -> Iterator[None]:
        """For the time that a prediction is in work."""
        self._predictions += 1
        self._nothing_waits.clear()
        try:
            yield
        finally:
            self._predictions -= 1
            self._last = self._clock()
            if not self._predictions:
                self._nothing_waits.set()

    async def turns(self, items: Sequence[Item], most: int) -> AsyncIterator[Sequence[Item]]:
        """The items in order, `most` at once; one by one between predictions, as long as there are any."""
        rest = items
        while rest:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._nothing_waits.wait(), PATIENCE_S)
            busy = self._predictions or self._clock() - self._last < RECENT_S
            count = 1 if busy else most
            yield rest[:count]
            rest = rest[count:]
