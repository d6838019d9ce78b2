"""Embeddings of images that were sent before: bounded in bytes, a tenant's own, the same bit for bit."""

import numpy as np
import pytest
from prometheus_client import REGISTRY

from service.web.embedding_cache import ENTRY_BYTES, EmbeddingCache, Looked, key_of

SIZE = ENTRY_BYTES + 4 * 16  # bytes of an entry of these tests


def embedding(number: int) -> np.ndarray:
    return np.random.default_rng(number).normal(size=16).astype(np.float32)


def key(number: int, tenant: str = "default") -> tuple[str, bytes]:
    return key_of(tenant, str(number).encode())


def held(cache: EmbeddingCache, *numbers: int) -> list[int]:
    return [number for number in numbers if cache.get(key(number)) is not None]


def metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_what_is_kept_comes_back_bit_for_bit():
    cache = EmbeddingCache(most_bytes=SIZE)
    odd = np.array([np.nan, -0.0, 1e-45, np.inf] * 4, np.float32)
    cache.put(key(1), odd)
    assert cache.get(key(1)).tobytes() == odd.tobytes()


def test_what_is_kept_does_not_change_with_the_array_that_it_came_from():
    cache = EmbeddingCache(most_bytes=SIZE)
    rows = np.ones((3, 16), np.float32)
    cache.put(key(1), rows[1])
    rows[:] = 7
    assert cache.get(key(1)).tolist() == [1.0] * 16


def test_the_least_recently_used_make_room_by_bytes():
    cache = EmbeddingCache(most_bytes=3 * SIZE)
    for number in range(3):
        cache.put(key(number), embedding(number))
    cache.get(key(0))
    cache.put(key(3), embedding(3))
    assert held(cache, 0, 1, 2, 3) == [0, 2, 3]
    assert metric("polyhead_embedding_cache_bytes") == 3 * SIZE


def test_the_same_image_again_takes_no_more_bytes():
    cache = EmbeddingCache(most_bytes=2 * SIZE)
    cache.put(key(1), embedding(1))
    for _ in range(5):
        cache.put(key(2), embedding(2))
    assert held(cache, 1, 2) == [1, 2]
    assert metric("polyhead_embedding_cache_bytes") == 2 * SIZE


def test_one_larger_than_the_bound_is_not_kept_and_nothing_is_owed_for_it():
    cache = EmbeddingCache(most_bytes=SIZE - 1)
    cache.put(key(1), embedding(1))
    assert len(cache) == 0
    assert metric("polyhead_embedding_cache_bytes") == 0


@pytest.mark.parametrize(
    ("tenant", "data"), [("other", b"1"), ("default", b"2")], ids=["another's", "another image"]
)
def test_only_the_same_image_of_the_same_tenant_is_known(tenant, data):
    cache = EmbeddingCache(most_bytes=SIZE)
    cache.put(key_of("default", b"1"), embedding(1))
    assert cache.get(key_of(tenant, data)) is None


def test_hits_and_misses_are_counted():
    cache = EmbeddingCache(most_bytes=SIZE)
    before = [metric("polyhead_embedding_cache_total", outcome=outcome) for outcome in ("hit", "miss")]
    cache.get(key(1))
    cache.put(key(1), embedding(1))
    cache.get(key(1))
    cache.get(key(1))
    after = [metric("polyhead_embedding_cache_total", outcome=outcome) for outcome in ("hit", "miss")]
    assert [after[0] - before[0], after[1] - before[1]] == [2, 1]


@pytest.mark.parametrize(
    ("known", "unknown"), [((), [0, 1, 2]), ((0, 1, 2), []), ((0,), [1, 2]), ((1,), [0, 2]), ((2, 0), [1])]
)
def test_the_rows_of_an_answer_find_their_places(known, unknown):
    """An answer has the unknown first, and then the known as they stand in the look-up."""
    looked = Looked([key(number) for number in range(3)], {place: embedding(place) for place in known})
    answered = [*unknown, *known]
    assert looked.unknown == unknown
    assert [answered[row] for row in looked.order] == [0, 1, 2]
