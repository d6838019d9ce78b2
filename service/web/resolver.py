"""Which version a request means: the store's answer, kept for a moment.

An entry older than `fresh_s` is asked for again; while the store can't be reached it is used as it is, so
that predictions go on without the database.
"""

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import anyio.to_thread

from models.errors import PolyheadError
from service.errors import StoreUnavailable
from service.store import Store
from service.store.records import PRODUCTION, Resolved

CAPACITY = 65_536  # entries; about 1 KB each


@dataclass(frozen=True, slots=True)
class Target:
    """A task, and one of its versions by number or by alias."""

    task: str
    alias: str | None = None
    version: int | None = None

    @classmethod
    def of(cls, task: str, *, alias: str | None = None, version: int | None = None) -> "Target":
        """Fill in `production` where neither is named."""
        return cls(task, PRODUCTION if alias is None and version is None else alias, version)

    @classmethod
    def parse(cls, text: str) -> "Target":
        """Read `name`, `name@alias` or `name@3`; no alias is named as a number."""
        task, at, rest = text.partition("@")
        if not at:
            return cls.of(task)
        # A longer number would not fit a database's integer; as an alias it is unknown.
        if rest.isascii() and rest.isdigit() and len(rest) < 10:
            return cls(task, version=int(rest))
        return cls(task, alias=rest)


class Resolver:
    """Resolves targets for one backbone, from a cache of bounded age."""

    def __init__(
        self,
        store: Store,
        backbone_digest: str,
        *,
        fresh_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._backbone_digest = backbone_digest
        self._fresh_s = fresh_s
        self._clock = clock
        self._lock = threading.Lock()  # routes that only touch the store run in threads
        self._entries: OrderedDict[tuple[str, Target], tuple[float, Resolved]] = OrderedDict()

    async def resolve(self, tenant: str, target: Target) -> Resolved:
        """The version behind a target.

        Raises: UnknownTask, UnknownAlias, UnknownVersion, NothingPublished, BackboneMismatch,
                StoreUnavailable.
        """
        now = self._clock()
        with self._lock:
            read_at, known = self._entries.get((tenant, target), (0.0, None))
        if known is not None and now - read_at < self._fresh_s:
            return known
        try:
            resolved = await anyio.to_thread.run_sync(self._ask, tenant, target)
        except StoreUnavailable:
            if known is None:
                raise
            return known
        with self._lock:
            self._entries[tenant, target] = (now, resolved)
            self._entries.move_to_end((tenant, target))
            while len(self._entries) > CAPACITY:
                self._entries.popitem(last=False)
        return resolved

    async def resolve_all(self, tenant: str, targets: Sequence[Target]) -> list[Resolved | PolyheadError]:
        """Each target's version, or why it has none."""
        return await asyncio.gather(*(self._attempt(tenant, target) for target in targets))

    def forget(self, tenant: str, task: str) -> None:
        """Ask again for a task whose pointers this process has just changed."""
        with self._lock:
            for key in [key for key in self._entries if key[0] == tenant and key[1].task == task]:
                del self._entries[key]

    async def _attempt(self, tenant: str, target: Target) -> Resolved | PolyheadError:
        try:
            return await self.resolve(tenant, target)
        except PolyheadError as error:
            return error

    def _ask(self, tenant: str, target: Target) -> Resolved:
        return self._store.aliases.resolve(
            tenant,
            target.task,
            alias=target.alias,
            version=target.version,
            backbone_digest=self._backbone_digest,
        )
