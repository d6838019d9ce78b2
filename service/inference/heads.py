"""The heads that the worker holds: the least recently used make room, and none waits long for another."""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout

import structlog

from models.errors import InvalidHead
from service.errors import StoreUnavailable
from service.inference.batching import Head, HeadRef
from service.metrics import HEAD_CACHE, HEAD_CACHE_EVICTIONS

log = structlog.stdlib.get_logger(__name__)


class HeadCache:
    """Heads by digest. Versions never change, so nothing is ever stale."""

    def __init__(
        self,
        fetch: Callable[[str], bytes],
        open_head: Callable[[bytes, str], Head],
        *,
        capacity: int,
        patience_s: float = 2.0,
    ) -> None:
        """Args: fetch: reads a blob by its key; open_head: makes a head of a file's bytes and the
        output of the backbone that it is to consume.
        patience_s: how long after its start a load is waited for; a slow store must not hold up
        the tasks whose heads are here.
        """
        self._fetch = fetch
        self._open = open_head
        self._capacity = capacity
        self._patience_s = patience_s
        self._held: OrderedDict[str, Head] = OrderedDict()
        self._loading: dict[str, tuple[float, Future[Head]]] = {}  # digest -> when it was begun, and the load
        self._pool = ThreadPoolExecutor(8, thread_name_prefix="head")

    def __len__(self) -> int:
        return len(self._held)

    def begin(self, refs: Sequence[HeadRef]) -> None:
        """Start to load the heads that aren't held, beside the backbone's work."""
        self._collect()
        for ref in refs:
            if ref.digest in self._held:
                HEAD_CACHE.labels("hit").inc()
            else:
                HEAD_CACHE.labels("miss").inc()
                self._begin(ref)

    def get(self, ref: HeadRef) -> Head:
        """The head, from memory or from the store.

        Raises: UnknownBlob, StoreUnavailable, InvalidHead, BackboneMismatch.
        """
        held = self._held.get(ref.digest)
        if held is not None:
            self._held.move_to_end(ref.digest)
            return held
        begun, load = self._begin(ref)
        try:
            head = load.result(timeout=max(0.0, begun + self._patience_s - time.monotonic()))
        except FutureTimeout:
            log.warning("a head is slow to load", head=ref.digest, key=ref.key)
            raise StoreUnavailable from None
        finally:
            if load.done():
                del self._loading[ref.digest]
        self._hold(ref.digest, head)
        return head

    def _collect(self) -> None:
        """Take in what has come since nobody waits for it any more; what failed is asked for again."""
        for digest, (_, load) in list(self._loading.items()):
            if load.done():
                del self._loading[digest]
                if load.exception() is None:
                    self._hold(digest, load.result())

    def _begin(self, ref: HeadRef) -> tuple[float, "Future[Head]"]:
        if ref.digest not in self._loading:
            self._loading[ref.digest] = (time.monotonic(), self._pool.submit(self._load, ref))
        return self._loading[ref.digest]

    def _load(self, ref: HeadRef) -> Head:
        data = self._fetch(ref.key)
        if hashlib.sha256(data).hexdigest() != ref.digest:
            raise InvalidHead("its bytes are not those that were published")
        return self._open(data, ref.output)

    def _hold(self, digest: str, head: Head) -> None:
        self._held[digest] = head
        while len(self._held) > self._capacity:
            self._held.popitem(last=False)
            HEAD_CACHE_EVICTIONS.inc()
