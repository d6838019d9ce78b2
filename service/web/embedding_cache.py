"""Embeddings of images that were sent before: such an image is neither decoded nor embedded again.

Why each HTTP process has its own, why it is off unless asked for, and what passes it by:
docs/decisions/embedding-cache.md.
"""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock

import numpy as np

from models.arrays import FloatArray
from service.metrics import EMBEDDING_CACHE, EMBEDDING_CACHE_BYTES

Key = tuple[str, bytes]  # whose image, and the sha256 of its bytes

ENTRY_BYTES = 300  # of an entry beside its numbers: 230 by tracemalloc, and what the allocator rounds up


class EmbeddingCache:
    """The one backbone's embeddings by tenant and image; the least recently used make room.

    By tenant, or one could tell by the time of an answer what another has sent. Not by the backbone's digest:
    a process serves one backbone from its start to its end. Look-ups come from several threads.
    """

    def __init__(self, *, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._held: OrderedDict[Key, bytes] = OrderedDict()  # (D,) float32
        self._bytes = 0
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._held)

    def get(self, key: Key) -> FloatArray | None:
        """The embedding, (D,) float32, bit for bit as it was put; None: it isn't here."""
        with self._lock:
            row = self._held.get(key)
            if row is not None:
                self._held.move_to_end(key)
        EMBEDDING_CACHE.labels("miss" if row is None else "hit").inc()
        return None if row is None else np.frombuffer(row, np.float32)

    def put(self, key: Key, embedding: FloatArray) -> None:
        """Args: embedding: (D,) float32, of the image as it is."""
        row = embedding.tobytes()
        with self._lock:
            if key in self._held:
                return
            self._held[key] = row
            self._bytes += len(row) + ENTRY_BYTES
            while self._bytes > self._most_bytes:
                _, evicted = self._held.popitem(last=False)
                self._bytes -= len(evicted) + ENTRY_BYTES
            EMBEDDING_CACHE_BYTES.set(self._bytes)


def key_of(tenant: str, data: bytes) -> Key:
    return tenant, hashlib.sha256(data).digest()


@dataclass(frozen=True, slots=True)
class Looked:
    """What a cache said of the images of a request, each by its place among those that are no error."""

    keys: list[Key]
    known: dict[int, FloatArray]  # by place: (D,)

    @property
    def unknown(self) -> list[int]:
        """Places, in order."""
        return [place for place in range(len(self.keys)) if place not in self.known]

    @property
    def order(self) -> list[int]:
        """Of each place, the row in an answer that has the unknown first and the known after them."""
        rows = {place: row for row, place in enumerate([*self.unknown, *self.known])}
        return [rows[place] for place in range(len(self.keys))]
