"""Whether the store can be reached, asked seldom enough for a probe."""

import time

import anyio
import anyio.to_thread

from models.errors import PolyheadError
from service.store import Store

FRESH_S = 1.0
PATIENCE_S = 2.0  # for a database that doesn't answer at all


class Reach:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._asked_at = -FRESH_S
        self._reached = False

    @property
    def once(self) -> bool:
        """Whether it was reached at some time, by a probe or by a request."""
        return self._store.database.reached

    async def check(self) -> bool:
        """Whether the database and the blobs answer."""
        if time.monotonic() - self._asked_at >= FRESH_S:
            self._asked_at = time.monotonic()
            self._reached = await self._ask()
        return self._reached

    async def _ask(self) -> bool:
        with anyio.move_on_after(PATIENCE_S):
            return await anyio.to_thread.run_sync(self._ping, abandon_on_cancel=True)
        return False

    def _ping(self) -> bool:
        try:
            self._store.ping()
        except PolyheadError:
            return False
        return True
