"""Shared memory for images on their way to the worker."""

import multiprocessing

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.inference.shelf import Shelf

IMAGE = 12  # bytes


def images(count: int, value: int) -> bytes:
    return bytes([value]) * (IMAGE * count)


def read(shelf: Shelf, place: int, results: "multiprocessing.Queue[bytes]") -> None:
    results.put(shelf.view(place, 2 * IMAGE).tobytes())


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_child_sees_what_was_put(method):
    context = multiprocessing.get_context(method)
    shelf, results = Shelf(2, 4, IMAGE), context.Queue()
    place = shelf.share(1).put(images(1, 7) + images(1, 8))
    child = context.Process(target=read, args=(shelf, place, results))
    child.start()
    assert results.get(timeout=60) == images(1, 7) + images(1, 8)
    child.join(60)


def test_shares_do_not_overlap():
    shelf = Shelf(2, 2, IMAGE)
    places = [shelf.share(number).put(images(2, number + 1)) for number in range(2)]
    assert [shelf.view(place, 2 * IMAGE).tobytes() for place in places] == [images(2, 1), images(2, 2)]


@pytest.mark.parametrize("pixels", [b"", images(4, 0) + b"1", images(5, 0)])
def test_what_does_not_fit_is_not_taken(pixels):
    share = Shelf(1, 4, IMAGE).share(0)
    assert share.put(pixels) is None
    assert share.put(images(4, 1)) == 0


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 4 * IMAGE)), max_size=60))
def test_what_lies_there_stays_as_it_is_until_it_is_freed(steps):
    shelf = Shelf(1, 8, IMAGE)
    share, held = shelf.share(0), list[tuple[int, int, int]]()
    for value, (puts, number) in enumerate(steps):
        if puts:
            place = share.put(bytes([value]) * number)  # images of any size
            if place is not None:
                held.append((place, number, value))
        elif held:
            share.free(*held.pop(number % len(held))[:2])
        assert all(shelf.view(place, size).tobytes() == bytes([known]) * size for place, size, known in held)
    for place, size, _ in held:
        share.free(place, size)
    assert share.put(images(8, 1)) == 0


def test_memory_is_taken_only_where_images_were_put():
    shelf = Shelf(1, 2**16, 2**20)  # 64 GiB, more than many a machine has
    assert shelf.share(0).put(bytes(2**20)) == 0
    assert not shelf.view(2**16 - 1, 1).any()
    assert isinstance(shelf.view(0, 1), np.ndarray)
