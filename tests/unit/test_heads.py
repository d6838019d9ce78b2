"""The worker's heads: loaded once, checked, bounded, and never waited for long."""

import hashlib
import threading
import time
from collections.abc import Sequence
from dataclasses import replace

import pytest
from prometheus_client import REGISTRY

from models.arrays import FloatArray
from models.errors import InvalidHead
from service.errors import StillLoading, UnknownBlob
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
        self.kind = None
        self.size = len(data)

    def run(self, embeddings: FloatArray) -> FloatArray:
        return embeddings

    def logits(self, embeddings: FloatArray) -> FloatArray:
        return embeddings


class Several:
    """Heads that run together, each as `Named`."""

    def __init__(self, files: Sequence[bytes]) -> None:
        self.files = files

    def run(self, embeddings: FloatArray) -> list[FloatArray]:
        return [embeddings for _ in self.files]


def ref(key: str, data: bytes, output: str = "embedding") -> HeadRef:
    return HeadRef(hashlib.sha256(data).hexdigest(), key, output)


def sized(*sizes: int) -> tuple[Shelf, list[HeadRef]]:
    """A shelf of heads of so many bytes, and how to ask for them."""
    blobs = {f"{size}-{number}": bytes([number]) * size for number, size in enumerate(sizes)}
    return Shelf(**blobs), [ref(key, data) for key, data in blobs.items()]


def reads(shelf: Shelf, heads: HeadCache, *refs: HeadRef) -> int:
    """How many of these had to be read again, asked for one batch after another."""
    before = len(shelf.reads)
    for each in refs:
        heads.begin([each])
        heads.get(each)
    return len(shelf.reads) - before


A, B, C = ref("a", b"A"), ref("b", b"B"), ref("c", b"C")


def test_a_head_is_read_once():
    shelf = Shelf(a=b"A")
    heads = HeadCache(shelf.fetch, Named, Several, capacity=2, most_bytes=100)
    heads.begin([A])
    assert heads.get(A) is heads.get(A)
    heads.begin([A])
    assert shelf.reads == ["a"]


def test_the_least_recently_used_head_makes_room():
    shelf = Shelf(a=b"A", b=b"B", c=b"C")
    heads = HeadCache(shelf.fetch, Named, Several, capacity=2, most_bytes=100)
    for each in (A, B, A, C, A):
        heads.get(each)
    assert len(heads) == 2
    assert shelf.reads == ["a", "b", "c"]
    heads.get(B)
    assert shelf.reads == ["a", "b", "c", "b"]


def test_more_heads_in_one_batch_than_are_held_still_come_one_by_one():
    shelf = Shelf(a=b"A", b=b"B", c=b"C")
    heads = HeadCache(shelf.fetch, Named, Several, capacity=1, most_bytes=100)
    heads.begin([A, B, C])
    assert [heads.get(each).data for each in (A, B, C)] == [b"A", b"B", b"C"]


def test_bytes_that_are_not_those_published_are_refused():
    heads = HeadCache(Shelf(a=b"tampered").fetch, Named, Several, capacity=2, most_bytes=100)
    with pytest.raises(InvalidHead, match="not those"):
        heads.get(A)
    assert len(heads) == 0


def test_a_missing_head_is_asked_for_again_when_it_is_wanted_again():
    shelf = Shelf()
    heads = HeadCache(shelf.fetch, Named, Several, capacity=2, most_bytes=100)
    with pytest.raises(UnknownBlob):
        heads.get(A)
    shelf.blobs["a"] = b"A"
    assert heads.get(A).data == b"A"


def test_a_store_that_does_not_answer_delays_a_batch_once_and_is_not_asked_twice():
    shelf = Shelf(a=b"A")
    shelf.open.clear()
    heads = HeadCache(shelf.fetch, Named, Several, capacity=2, most_bytes=100, patience_s=0.2)
    try:
        with pytest.raises(StillLoading):
            heads.get(A)
        started = time.monotonic()
        with pytest.raises(StillLoading):  # the same load, and its time is up
            heads.get(A)
        assert time.monotonic() - started < 0.15
    finally:
        shelf.open.set()
    end = time.monotonic() + 5
    while not shelf.reads and time.monotonic() < end:
        time.sleep(0.01)
    assert heads.get(A).data == b"A"
    assert shelf.reads == ["a"]


def test_a_head_is_late_after_a_moment_and_until_it_is_given_up():
    shelf = Shelf(a=b"A", b=b"B")
    heads = HeadCache(shelf.fetch, Named, Several, capacity=2, most_bytes=100, patience_s=0.3)
    heads.begin([A])
    assert not heads.are_late([A])  # it comes within the grace
    assert not heads.are_late([B])  # nobody has asked for it
    shelf.open.clear()
    try:
        heads.begin([B])
        assert heads.are_late([B])
        time.sleep(0.35)
        assert not heads.are_late([B])
        with pytest.raises(StillLoading):
            heads.get(B)
    finally:
        shelf.open.set()


def test_a_load_that_fails_while_a_job_waits_for_it_is_that_job_s_answer_and_not_begun_anew():
    """Else the job would be put off again and again, until its deadline, by a store that refuses."""
    shelf = Shelf()
    shelf.open.clear()
    heads = HeadCache(shelf.fetch, Named, Several, capacity=2, most_bytes=100, patience_s=30)
    heads.begin([C])
    assert heads.are_late([C])
    shelf.open.set()
    end = time.monotonic() + 5
    while heads.are_late([C]) and time.monotonic() < end:
        time.sleep(0.01)
    heads.begin([C])
    assert not heads.are_late([C])
    with pytest.raises(UnknownBlob):
        heads.get(C)
    assert shelf.reads == ["c"]
    with pytest.raises(UnknownBlob):
        heads.get(C)
    assert shelf.reads == ["c", "c"]


def test_a_head_that_came_too_late_is_held_like_any_other_and_a_late_failure_is_forgotten():
    shelf = Shelf(a=b"A", b=b"B")
    shelf.open.clear()
    heads = HeadCache(shelf.fetch, Named, Several, capacity=2, most_bytes=100, patience_s=0.0)
    try:
        for each in (A, B, C):
            with pytest.raises(StillLoading):
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


def test_bytes_are_bounded_too_and_the_least_recently_used_make_room():
    shelf, (a, b, c, d) = sized(40, 40, 40, 90)
    heads = HeadCache(shelf.fetch, Named, Several, capacity=10, most_bytes=100)
    assert reads(shelf, heads, a, b, a, c) == 3
    assert (len(heads), heads.size) == (2, 80)
    assert reads(shelf, heads, a, c) == 0
    assert reads(shelf, heads, d) == 1
    assert (len(heads), heads.size) == (1, 90)


def test_one_larger_than_the_bound_is_served_alone():
    shelf, (small, huge) = sized(10, 1000)
    heads = HeadCache(shelf.fetch, Named, Several, capacity=10, most_bytes=100)
    assert reads(shelf, heads, small, huge, huge) == 2
    assert (len(heads), heads.size) == (1, 1000)
    assert reads(shelf, heads, small) == 1
    assert (len(heads), heads.size) == (1, 10)


def test_bytes_are_told_by_kind_and_by_nothing_else():
    shelf = Shelf(a=b"A", b=b"BB", c=b"CCC")
    heads = HeadCache(shelf.fetch, Named, Several, capacity=10, most_bytes=100)
    reads(shelf, heads, ref("a", b"A"), ref("b", b"BB", "stage"), ref("c", b"CCC", "pixels"))
    told = [
        REGISTRY.get_sample_value("polyhead_head_cache_bytes", {"kind": kind})
        for kind in ("head", "tail", "network")
    ]
    assert told == [1, 2, 3]


def pinned(each: HeadRef, alias: str = "task_1@production") -> HeadRef:
    return replace(each, alias=alias, pinned=True)


def loose(each: HeadRef, alias: str = "task_1@production") -> HeadRef:
    return replace(each, alias=alias, pinned=False)


def test_a_pinned_head_stays_however_many_others_come():
    shelf, (keep, *others) = sized(40, 40, 40, 40)
    heads = HeadCache(shelf.fetch, Named, Several, capacity=10, most_bytes=100)
    reads(shelf, heads, pinned(keep), *others, *others)
    assert reads(shelf, heads, keep) == 0
    assert heads.size <= 100


def test_a_pin_by_entries_holds_as_one_by_bytes():
    shelf, (keep, *others) = sized(1, 1, 1, 1)
    heads = HeadCache(shelf.fetch, Named, Several, capacity=2, most_bytes=100)
    reads(shelf, heads, pinned(keep), *others, *others)
    assert reads(shelf, heads, keep) == 0
    assert len(heads) == 2


def test_what_is_asked_for_otherwise_does_not_unpin():
    """By its number, or by another alias that isn't pinned."""
    shelf, (keep, *others) = sized(40, 40, 40, 40)
    heads = HeadCache(shelf.fetch, Named, Several, capacity=10, most_bytes=100)
    reads(shelf, heads, pinned(keep), keep, loose(keep, "task_1@candidate"), *others)
    assert reads(shelf, heads, keep) == 0


def test_a_pin_is_let_go_when_its_alias_says_so():
    shelf, (keep, *others) = sized(40, 40, 40, 40)
    heads = HeadCache(shelf.fetch, Named, Several, capacity=10, most_bytes=100)
    reads(shelf, heads, pinned(keep), loose(keep), *others)
    assert reads(shelf, heads, keep) == 1


def test_a_pin_moves_with_its_alias():
    shelf, (old, new, *others) = sized(40, 40, 40, 40)
    heads = HeadCache(shelf.fetch, Named, Several, capacity=10, most_bytes=100)
    reads(shelf, heads, pinned(old), pinned(new), *others)
    assert reads(shelf, heads, new) == 0
    assert reads(shelf, heads, old) == 1


def test_pinned_ones_that_together_are_too_much_make_room_for_each_other():
    shelf, refs = sized(40, 40, 40)
    first, second, third = (pinned(each, f"task_{number}@production") for number, each in enumerate(refs))
    heads = HeadCache(shelf.fetch, Named, Several, capacity=10, most_bytes=100)
    reads(shelf, heads, first, second, first, third)
    assert heads.size == 80
    assert reads(shelf, heads, first, third) == 0
    assert reads(shelf, heads, second) == 1


def test_a_large_one_goes_beyond_the_bound_rather_than_to_evict_what_is_pinned():
    shelf, (keep, large, other) = sized(60, 70, 10)
    heads = HeadCache(shelf.fetch, Named, Several, capacity=10, most_bytes=100)
    assert reads(shelf, heads, pinned(keep), large, large, keep) == 2
    assert reads(shelf, heads, other, keep) == 1
    assert heads.size == 70


def test_a_pin_that_could_not_be_loaded_leaves_nothing_behind():
    heads = HeadCache(Shelf().fetch, Named, Several, capacity=10, most_bytes=100)
    heads.begin([pinned(A)])
    with pytest.raises(UnknownBlob):
        heads.get(pinned(A))
    assert heads._pins == {}
