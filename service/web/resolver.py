"""Which version a request means: the store's answer, kept for a moment.

While the store can't be reached, what is known is used as it is, so that predictions go on without the
database.
"""

import asyncio
import contextlib
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import anyio
import anyio.to_thread

from models.errors import PolyheadError
from service.errors import StoreUnavailable
from service.store import Store
from service.store.aliases import Stamp
from service.store.records import PRODUCTION, Resolved

CAPACITY = 65_536  # entries; about 1 KB each
PATIENCE_S = 1.0  # a store that hangs holds up nobody for longer whose target is known


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


@dataclass(frozen=True, slots=True)
class _Entry:
    resolved: Resolved
    stamp: Stamp | None  # of the store's aliases, when it was asked; None: it has changed since, or who knows
    changed: bool = False  # by this process since


class Resolver:
    """Resolves targets for one backbone, from a cache of bounded age.

    What is known holds until the stamp of the store's aliases changes, which is looked at every `fresh_s`
    seconds: so a thousand tasks cost no more questions than one. Who hears of a change sooner says so.
    """

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
        self._entries: OrderedDict[tuple[str, Target], _Entry] = OrderedDict()
        self._stamp: Stamp | None = None
        self._looked_at = -math.inf  # of the clock, when the stamp was asked for
        self._look_began = -math.inf  # the same, of a look that may be going on
        self._looking: asyncio.Task[None] | None = None

    async def resolve(self, tenant: str, target: Target) -> Resolved:
        """The version behind a target.

        Raises: UnknownTask, UnknownAlias, UnknownVersion, NothingPublished, BackboneMismatch,
                StoreUnavailable.
        """
        (found,) = await self.resolve_all(tenant, [target])
        if isinstance(found, PolyheadError):
            raise found
        return found

    async def resolve_all(self, tenant: str, targets: Sequence[Target]) -> list[Resolved | PolyheadError]:
        """Each target's version, or why it has none."""
        await self._look()
        stamp = self._stamp
        with self._lock:
            entries = [self._entries.get((tenant, target)) for target in targets]
        held = [each.resolved for each in entries if each and not each.changed and each.stamp == stamp]
        if len(held) == len(targets):
            return [*held]
        known = dict(zip(targets, entries, strict=True))
        asked = [
            target
            for target, entry in known.items()
            if entry is None or entry.changed or entry.stamp != stamp
        ]
        # Who has just published here is to see it; others may see what was a moment longer.
        patient = all(entry is not None and not entry.changed for entry in known.values())
        found: dict[Target, Resolved | PolyheadError] = {
            target: entry.resolved for target, entry in known.items() if entry is not None
        }
        if asked:
            answers: dict[Target, Resolved | PolyheadError] = {}
            with anyio.move_on_after(PATIENCE_S if patient else math.inf):
                answers = await anyio.to_thread.run_sync(self._ask_all, tenant, asked, abandon_on_cancel=True)
            self._keep(tenant, answers, stamp)
            for target, answer in answers.items():
                # Without the store, what was known goes on.
                if not (isinstance(answer, StoreUnavailable) and target in found):
                    found[target] = answer
        return [found[target] for target in targets]

    def change(self, tenant: str, task: str) -> None:
        """Ask again for a task whose pointers moved here; without the store, what was known goes on."""
        with self._lock:
            for key in self._of(tenant, task):
                self._entries[key] = replace(self._entries[key], changed=True)

    def forget(self, tenant: str, task: str) -> None:
        """Know nothing any more of a task that this process has deleted, or an alias of it."""
        with self._lock:
            for key in self._of(tenant, task):
                del self._entries[key]

    def expire(self, task_ids: Collection[str]) -> None:
        """Ask again for tasks whose pointers moved somewhere else, before it is time to."""
        with self._lock:
            of_tasks = [key for key, entry in self._entries.items() if entry.resolved.task_id in task_ids]
            for key in of_tasks:
                self._entries[key] = replace(self._entries[key], stamp=None)

    def _of(self, tenant: str, task: str) -> list[tuple[str, Target]]:
        return [key for key in self._entries if key[0] == tenant and key[1].task == task]

    async def _look(self) -> None:
        """Look at the stamp if it is time to: once for all who ask meanwhile."""
        now = self._clock()
        if now - self._looked_at < self._fresh_s:
            return
        if self._looking is None or self._looking.done():
            self._look_began = now
            self._looking = asyncio.create_task(self._renew())
        done, _ = await asyncio.wait({self._looking}, timeout=max(0.0, self._look_began + PATIENCE_S - now))
        for task in done:
            task.result()

    async def _renew(self) -> None:
        with contextlib.suppress(StoreUnavailable):
            self._stamp = await anyio.to_thread.run_sync(self._store.aliases.stamp)
        self._looked_at = self._look_began

    def _keep(
        self, tenant: str, answers: Mapping[Target, Resolved | PolyheadError], stamp: Stamp | None
    ) -> None:
        with self._lock:
            for target, answer in answers.items():
                if isinstance(answer, Resolved):
                    self._entries[tenant, target] = _Entry(answer, stamp)
                    self._entries.move_to_end((tenant, target))
            while len(self._entries) > CAPACITY:
                self._entries.popitem(last=False)

    def _ask_all(self, tenant: str, targets: Sequence[Target]) -> dict[Target, Resolved | PolyheadError]:
        """What the store says: of many aliases at once, of the rest, and of what isn't there, one by one."""
        found: dict[Target, Resolved | PolyheadError] = {}
        named = {(each.task, each.alias): each for each in targets if each.alias is not None}
        try:
            if len(named) > 1:
                behind = self._store.aliases.resolve_many(tenant, named, self._backbone_digest)
                found |= {named[pair]: resolved for pair, resolved in behind.items()}
        except StoreUnavailable as error:
            return dict.fromkeys(targets, error)
        return found | {target: self._ask(tenant, target) for target in targets if target not in found}

    def _ask(self, tenant: str, target: Target) -> Resolved | PolyheadError:
        try:
            return self._store.aliases.resolve(
                tenant,
                target.task,
                alias=target.alias,
                version=target.version,
                backbone_digest=self._backbone_digest,
            )
        except PolyheadError as error:
            return error
