"""What the worker holds of the tasks: the least recently used make room, and none waits long for another."""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from concurrent.futures import wait as wait_for
from dataclasses import dataclass

import structlog

from models.errors import InvalidHead
from models.head import SMALL
from models.identity import EMBEDDING, PIXELS, POOLED
from service.errors import StillLoading
from service.inference.batching import Group, Head, HeadRef
from service.inference.groups import FEWEST, HeadGroups
from service.metrics import HEAD_CACHE, HEAD_CACHE_BYTES, HEAD_CACHE_EVICTIONS

GRACE_S = 0.01  # of a load: an evicted head is back in 1 ms of CPU, mostly while the backbone runs

log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Loading:
    """A head on its way."""

    begun: float  # CLOCK_MONOTONIC seconds
    ref: HeadRef
    head: "Future[Head]"


class HeadCache:
    """Heads, tails and networks by digest. Versions never change, so nothing is ever stale."""

    def __init__(
        self,
        fetch: Callable[[str], bytes],
        open_head: Callable[[bytes, str], Head],
        open_group: Callable[[Sequence[bytes]], Group],
        *,
        capacity: int,
        most_bytes: int,
        patience_s: float = 2.0,
    ) -> None:
        """Args: fetch: reads a blob by its key; open_head: makes a head of a file's bytes and the
        output of the backbone that it is to consume; open_group: of many files' bytes.
        capacity, most_bytes: of what is held. The one in use may be beyond them: however large, it is served.
        patience_s: how long after its start a load is waited for; a slow store must not hold up
        the tasks whose heads are here.
        """
        self._fetch = fetch
        self._open = open_head
        self._capacity = capacity
        self._most_bytes = most_bytes
        self._patience_s = patience_s
        self._held: OrderedDict[str, tuple[Head, str]] = OrderedDict()  # digest -> the head and its kind
        self._bytes = {"head": 0, "tail": 0, "network": 0}
        self._pins: dict[str, str] = {}  # alias -> the digest that it keeps
        self._loading: dict[str, Loading] = {}  # by digest
        self._pool = ThreadPoolExecutor(8, thread_name_prefix="head")
        self._open_group = open_group
        self._groups = HeadGroups(lambda refs: self._pool.submit(self._load_group, refs))

    def __len__(self) -> int:
        return len(self._held)

    @property
    def size(self) -> int:
        """Bytes of all that is held."""
        return sum(self._bytes.values())

    def begin(self, refs: Sequence[HeadRef]) -> None:
        """Start to load the heads that aren't held, beside the backbone's work; learn what is pinned."""
        self._collect()
        for ref in refs:
            self._note_pin(ref)
        distinct = {ref.digest: ref for ref in refs}
        missing = [ref for digest, ref in distinct.items() if digest not in self._held]
        HEAD_CACHE.labels("hit").inc(len(distinct) - len(missing))
        HEAD_CACHE.labels("miss").inc(len(missing))
        for ref in missing:
            self._begin(ref)

    def are_late(self, refs: Iterable[HeadRef]) -> bool:
        """Whether one of these heads is on its way for longer than others should wait."""
        return bool(self._loading) and any(map(self._is_late, refs))

    def _is_late(self, ref: HeadRef) -> bool:
        """Whether so, and not given up yet."""
        load = self._loading.get(ref.digest)
        if load is None:
            return False
        age_s = time.monotonic() - load.begun
        wait_for([load.head], timeout=max(0.0, GRACE_S - age_s))
        return not load.head.done() and age_s < self._patience_s

    def get(self, ref: HeadRef) -> Head:
        """The head, from memory or from the store.

        Raises: UnknownBlob, StillLoading, StoreUnavailable, InvalidHead, BackboneMismatch.
        """
        held = self._held.get(ref.digest)
        if held is not None:
            self._held.move_to_end(ref.digest)
            return held[0]
        load = self._begin(ref)
        try:
            head = load.head.result(timeout=max(0.0, load.begun + self._patience_s - time.monotonic()))
        except FutureTimeout:
            log.warning("a head is slow to load", head=ref.digest, key=ref.key)
            raise StillLoading from None
        except Exception:
            self._unpin(ref.digest)
            raise
        finally:
            if load.head.done():
                del self._loading[ref.digest]
        self._hold(ref, head)
        return head

    def together(self, refs: Sequence[HeadRef]) -> Group | None:
        """These heads as one session, if they are held and were asked for together before."""
        if len(refs) < FEWEST:
            return None
        held = [self._held.get(ref.digest) for ref in refs]
        sizes = [each[0].size for each in held if each is not None]
        if len(sizes) < len(refs) or max(sizes) >= SMALL:  # larger ones are optimised, each for itself
            return None
        group = self._groups.find(refs, sum(sizes))
        if group is not None:
            for ref in refs:
                self._held.move_to_end(ref.digest)
        return group

    def _collect(self) -> None:
        """Take in what has come. What failed is told to who waits for it, and later asked for again."""
        for digest, load in list(self._loading.items()):
            if not load.head.done():
                continue
            if load.head.exception() is None:
                del self._loading[digest]
                self._hold(load.ref, load.head.result())
            elif time.monotonic() - load.begun > self._patience_s:  # nobody waits any more
                del self._loading[digest]
                self._unpin(digest)

    def _begin(self, ref: HeadRef) -> Loading:
        if ref.digest not in self._loading:
            self._loading[ref.digest] = Loading(time.monotonic(), ref, self._pool.submit(self._load, ref))
        return self._loading[ref.digest]

    def _load(self, ref: HeadRef) -> Head:
        return self._open(self._read(ref), ref.output)

    def _load_group(self, refs: Sequence[HeadRef]) -> Group:
        return self._open_group([self._read(ref) for ref in refs])

    def _read(self, ref: HeadRef) -> bytes:
        data = self._fetch(ref.key)
        if hashlib.sha256(data).hexdigest() != ref.digest:
            raise InvalidHead("its bytes are not those that were published")
        return data

    def _hold(self, ref: HeadRef, head: Head) -> None:
        kind = {EMBEDDING: "head", POOLED: "head", PIXELS: "network"}.get(ref.output, "tail")
        self._held[ref.digest] = head, kind
        self._bytes[kind] += head.size
        while (victim := self._victim(ref.digest)) is not None:
            evicted, its_kind = self._held.pop(victim)
            self._bytes[its_kind] -= evicted.size
            self._unpin(victim)
            HEAD_CACHE_EVICTIONS.inc()
        for each, size in self._bytes.items():
            HEAD_CACHE_BYTES.labels(each).set(size)

    def _victim(self, newest: str) -> str | None:
        """Who is to make room, if anybody: a pinned one only where the pinned alone are too much."""
        if not self._is_too_much(len(self._held), self.size):
            return None
        pinned = set(self._pins.values())
        others = (digest for digest in self._held if digest != newest)
        loose = next((digest for digest in others if digest not in pinned), None)
        if loose is not None:
            return loose
        sizes = [head.size for digest, (head, _) in self._held.items() if digest in pinned]
        if not self._is_too_much(len(sizes), sum(sizes)):
            return None
        return next((digest for digest in self._held if digest != newest), None)

    def _is_too_much(self, heads: int, size: int) -> bool:
        return heads > self._capacity or size > self._most_bytes

    def _note_pin(self, ref: HeadRef) -> None:
        """An alias keeps what it was last asked for, if it is pinned."""
        if ref.alias is not None:
            self._pins.pop(ref.alias, None)
            if ref.pinned:
                self._pins[ref.alias] = ref.digest

    def _unpin(self, digest: str) -> None:
        """Forget who keeps what isn't here: whoever asks for it again says so again."""
        for alias in [alias for alias, kept in self._pins.items() if kept == digest]:
            del self._pins[alias]
