import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.duplicates import FREE, Pairs, join_groups, near_duplicates
from tests.unit.datasets import DIGITS, unlike

APART = np.full(100, FREE)


def pairs_of(*triples):
    first, second, cosine = zip(*triples, strict=True)
    return Pairs(first=np.array(first), second=np.array(second), cosine=np.array(cosine, dtype=np.float32))


def flipped(hash_, bits):
    return np.uint64(int(hash_) ^ sum(1 << bit for bit in range(bits)))


@pytest.mark.parametrize(
    ("bits", "shift", "found"),
    [(0, 0.0, True), (4, 0.0, True), (5, 0.0, False), (0, 1.0, False)],
    ids=["same", "hash-4-bits-off", "hash-5-bits-off", "embedding-off"],
)
def test_both_views_must_agree(bits, shift, found):
    embeddings = DIGITS.data[:6].astype(np.float32)
    embeddings[4] = embeddings[1] * 2  # the direction counts, not the length
    embeddings[4, :32] += shift * 8
    hashes = unlike(6)
    hashes[4] = flipped(hashes[1], bits)
    pairs = near_duplicates(embeddings, hashes)
    assert list(zip(pairs.first, pairs.second, strict=True)) == ([(1, 4)] if found else [])


def test_blocks_find_what_one_comparison_of_all_finds():
    rng = np.random.default_rng(0)
    embeddings = DIGITS.data[:120].astype(np.float32)
    hashes = unlike(3)[rng.integers(0, 3, 120)]
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    alike = np.triu((hashes[:, None] == hashes[None]) & (unit @ unit.T > 0.95), 1)
    for block in (120 * 120, 120 * 7, 1):
        pairs = near_duplicates(embeddings, hashes, min_cosine=0.95, block=block)
        assert set(zip(*np.nonzero(alike), strict=True)) == set(zip(pairs.first, pairs.second, strict=True))


def test_a_thousand_equal_images_stay_connected_with_few_pairs():
    """A quadratic number of pairs is never held, and still one group could be made of them."""
    pairs = near_duplicates(np.ones((1000, 4), dtype=np.float32), np.zeros(1000, dtype=np.uint64))
    assert len(pairs.first) <= 32 * 1000
    assert set(pairs.first) == set(range(999))


def test_no_examples_have_no_pairs():
    assert len(near_duplicates(np.empty((0, 4), dtype=np.float32), np.empty(0, dtype=np.uint64)).first) == 0


def test_images_without_any_signal_are_no_duplicates():
    """A zero embedding has no direction."""
    pairs = near_duplicates(np.zeros((3, 4), dtype=np.float32), np.zeros(3, dtype=np.uint64))
    assert len(pairs.first) == 0


def test_the_most_similar_pairs_are_joined_first_and_a_group_stays_within_5_percent():
    chain = pairs_of(*((row, row + 1, 0.991 + 0.0001 * row) for row in range(20)))
    joined = join_groups((None,) * 100, chain, APART)
    assert np.bincount(joined.numbers).max() == 5
    assert joined.numbers[20] == joined.numbers[19] == joined.numbers[16] != joined.numbers[15]
    assert joined.apart == 4  # 21 in a chain, in groups of 5, 5, 5, 5 and 1


def test_the_users_groups_are_kept_whatever_their_size():
    joined = join_groups(("a",) * 60 + ("b",) * 40, pairs_of((0, 99, 1.0)), APART)
    assert np.unique(joined.numbers[:60]).size == np.unique(joined.numbers[60:]).size == 1
    assert joined.numbers[0] != joined.numbers[99]
    assert joined.apart == 1


def test_an_example_without_a_group_joins_the_group_of_its_near_duplicate():
    joined = join_groups(("a",) * 60 + (None,) * 40, pairs_of((3, 80, 1.0)), APART)
    assert joined.numbers[3] == joined.numbers[80]


def test_a_near_duplicate_never_joins_two_sides():
    sides = APART.copy()
    sides[[0, 1]] = 0, 2
    joined = join_groups((None,) * 100, pairs_of((0, 1, 1.0), (0, 5, 0.995), (1, 5, 0.999)), sides)
    assert joined.numbers[5] == joined.numbers[1] != joined.numbers[0]
    assert joined.apart == 2


@given(
    st.lists(st.tuples(st.integers(0, 59), st.integers(0, 59), st.floats(0.99, 1.0)), min_size=1, max_size=80)
)
def test_near_duplicate_groups_are_never_above_5_percent(triples):
    pairs = pairs_of(*((min(a, b), max(a, b), cosine) for a, b, cosine in triples))
    joined = join_groups((None,) * 60, pairs, np.full(60, FREE))
    assert np.bincount(joined.numbers).max() <= 3
