"""Which key a text is: the store's answer, kept for a second, so that by then a revoked key is none anywhere.

While the store can't be reached, a key that was known goes on for some minutes, and so do its predictions.
"""

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import anyio
import anyio.to_thread
import structlog

from models.errors import PolyheadError
from service.errors import InvalidKey, StoreUnavailable
from service.store.api_keys import ApiKeys
from service.store.records import ApiKey
from service.store.tokens import Peppers, Token

FRESH_S = 1.0
STALE_S = 600.0  # for which a key that was known goes on while the store is out of reach
USES_APART_S = 60.0  # last-used times are written no oftener
CAPACITY = 16_384  # keys, and ids of none
LOOK_UPS = 4  # at once: ids that somebody makes up must not take every thread

log = structlog.stdlib.get_logger(__name__)


@dataclass(slots=True)
class _Entry:
    read_at: float  # of the clock
    key: ApiKey | None  # None: there is no such key
    noted_at: float  # when its use was last written from here, seconds since the epoch


class Keyring:
    """The keys of one API process."""

    def __init__(
        self,
        keys: ApiKeys,
        peppers: Peppers,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._keys = keys
        self._peppers = peppers
        self._clock = clock
        self._now = now
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._limiter = anyio.CapacityLimiter(LOOK_UPS)
        self._writing: set[asyncio.Task[None]] = set()

    async def identify(self, text: str) -> ApiKey:
        """The valid key that a text is.

        Raises: InvalidKey; StoreUnavailable: nobody can say.
        """
        token = Token.parse(text)
        entry = None if token is None else await self._entry(token.id)
        key = None if entry is None else entry.key
        if token is None or entry is None or key is None or key.revoked_at is not None:
            raise InvalidKey
        if not self._peppers.verify(token, key.digest, key.pepper):
            raise InvalidKey
        self._note(token, key, entry)
        return key

    async def is_valid(self, key: ApiKey) -> bool:
        """Whether a key that was valid when its request began still is; True while nobody can say."""
        try:
            known = (await self._entry(key.id)).key
        except StoreUnavailable:
            return True
        return known is not None and known.revoked_at is None

    async def written(self) -> None:
        """Wait for the last-used times that are being written."""
        await asyncio.gather(*self._writing)

    async def _entry(self, key_id: str) -> _Entry:
        now = self._clock()
        with self._lock:
            known = self._entries.get(key_id)
        if known is not None and now - known.read_at < FRESH_S:
            return known
        try:
            found = await anyio.to_thread.run_sync(self._keys.find, key_id, limiter=self._limiter)
        except StoreUnavailable:
            if known is None or now - known.read_at > STALE_S:
                raise
            return known
        entry = _Entry(now, found, known.noted_at if known else 0.0)
        with self._lock:
            self._entries[key_id] = entry
            self._entries.move_to_end(key_id)
            while len(self._entries) > CAPACITY:
                self._entries.popitem(last=False)
        return entry

    def _note(self, token: Token, key: ApiKey, entry: _Entry) -> None:
        """Have the use written, without holding up the request."""
        now, newest = self._now(), self._peppers.ids[0]
        noted_at = max(entry.noted_at, key.last_used_at or 0.0)
        if now - noted_at < USES_APART_S and (key.pepper == newest or now - entry.noted_at < USES_APART_S):
            return
        entry.noted_at = now
        # Under the first pepper from now on, so that the others are out of use once every key has been used.
        kept = None if key.pepper == newest else (self._peppers.digest(token, newest), newest)
        task = asyncio.create_task(self._write(key.id, now, kept))
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    async def _write(self, key_id: str, now: float, kept: tuple[str, str] | None) -> None:
        def write() -> None:
            self._keys.note_use(key_id, now, apart_s=USES_APART_S, kept=kept)

        try:
            await anyio.to_thread.run_sync(write, limiter=self._limiter)
        except PolyheadError as error:
            log.warning("a key's last use was not written", key=key_id, reason=str(error))
