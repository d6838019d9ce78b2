"""The worker's heads: loaded once, checked, bounded, and never waited for long."""

import hashlib
import threading
import time

import pytest

from models.arrays import FloatArray
from models.errors import InvalidHead
from service.errors import StoreUnavailable, UnknownBlob
from service.inference.batching import HeadRef
from service.inference.heads import HeadCache


class Shelf:
    """Blobs in memory that remember which were read."""

    def __init__(self, **blobs: bytes) -> None:
        self.blobs = blobs
        self.reads: list[str] = []
        self.open = threading.Event()
        self.open.set()

    def fetch(self, key: str) -> bytes:
        self.open.wait()
        self.reads.append(key)
        if key not in self.blobs:
            raise UnknownBlob(key)
        return self.blobs[key]


class Named:
    """A head that knows which bytes it was made of."""

    def __init__(self, data: bytes, output: str) -> None:
        self.data = data
        self.output = output

    def run(self, embeddings: FloatArray) -> FloatArray:
        return embeddings


def ref(key: str, data: bytes) -> HeadRef:
    return HeadRef(hashlib.sha256(data).hexdigest(), key)


A, B, C = ref("a", b"A"), ref("b", b"B"), ref("c", b"C")


def test_a_head_is_read_once():
    shelf = Shelf(a=b"A")
    heads = HeadCache(shelf.fetch, Named, capacity=2)
    heads.begin([A])
    assert heads.get(A) is heads.get(A)
    heads.begin([A])
    assert shelf.reads == ["a"]


def test_the_least_recently_used_head_makes_room():
    shelf = Shelf(a=b"A", b=b"B", c=b"C")
    heads = HeadCache(shelf.fetch, Named, capacity=2)
    for each in (A, B, A, C, A):
        heads.get(each)
    assert len(heads) == 2
    assert shelf.reads == ["a", "b", "c"]
    heads.get(B)
    assert shelf.reads == ["a", "b", "c", "b"]


def test_more_heads_in_one_batch_than_are_held_still_come_one_by_one():
    shelf = Shelf(a=b"A", b=b"B", c=b"C")
    heads = HeadCache(shelf.fetch, Named, capacity=1)
    heads.begin([A, B, C])
    assert [heads.get(each).data for each in (A, B, C)] == [b"A", b"B", b"C"]


def test_bytes_that_are_not_those_published_are_refused():
    heads = HeadCache(Shelf(a=b"tampered").fetch, Named, capacity=2)
    with pytest.raises(InvalidHead, match="not those"):
        heads.get(A)
    assert len(heads) == 0


def test_a_missing_head_is_asked_for_again_when_it_is_wanted_again():
    shelf = Shelf()
    heads = HeadCache(shelf.fetch, Named, capacity=2)
    with pytest.raises(UnknownBlob):
        heads.get(A)
    shelf.blobs["a"] = b"A"
    assert heads.get(A).data == b"A"


def test_a_store_that_does_not_answer_delays_a_batch_once_and_is_not_asked_twice():
    shelf = Shelf(a=b"A")
    shelf.open.clear()
    heads = HeadCache(shelf.fetch, Named, capacity=2, patience_s=0.2)
    try:
        with pytest.raises(StoreUnavailable):
            heads.get(A)
        started = time.monotonic()
        with pytest.raises(StoreUnavailable):  # the same load, and its time is up
            heads.get(A)
        assert time.monotonic() - started < 0.15
    finally:
        shelf.open.set()
    end = time.monotonic() + 5
    while not shelf.reads and time.monotonic() < end:
        time.sleep(0.01)
    assert heads.get(A).data == b"A"
    assert shelf.reads == ["a"]


def test_a_head_that_came_too_late_is_held_like_any_other_and_a_late_failure_is_forgotten():
    shelf = Shelf(a=b"A", b=b"B")
    shelf.open.clear()
    heads = HeadCache(shelf.fetch, Named, capacity=2, patience_s=0.0)
    try:
        for each in (A, B, C):
            with pytest.raises(StoreUnavailable):
                heads.get(each)
    finally:
        shelf.open.set()
    end = time.monotonic() + 5
    while len(heads) < 2 and time.monotonic() < end:
        time.sleep(0.01)
        heads.begin([])
    assert [heads.get(each).data for each in (A, B)] == [b"A", b"B"]
    assert sorted(shelf.reads) == ["a", "b", "c"]
    shelf.blobs["c"] = b"C"
    heads.begin([C])
    assert heads._loading.keys() == {C.digest}
