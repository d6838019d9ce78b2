"""Small real data sets: scikit-learn's digits, 8x8 scans, their pixels as embeddings."""

import numpy as np
from sklearn.datasets import load_digits

from models.dataset import Dataset
from models.strategies.basis import LEAST_SCALE

DIGITS = load_digits()


def unlike(count, seed=7):
    """Hashes of pictures that have nothing to do with one another."""
    return np.random.default_rng(seed).integers(0, 2**64, count, dtype=np.uint64)


def make_dataset(kind, labels, embeddings, targets, **fields):
    count = len(embeddings)
    given = {
        "ids": tuple(f"ex_{row:05}" for row in range(count)),
        "groups": (None,) * count,
        "hashes": unlike(count),
        "splits": (None,) * count,
        "split_by_user": (False,) * count,
    }
    return Dataset(
        kind=kind, labels=labels, embeddings=embeddings.astype(np.float32), targets=targets, **given | fields
    )


def digits(count=400, classes=10, start=0, **fields):
    rows = np.flatnonzero(DIGITS.target < classes)[start : start + count]
    labels = tuple(f"digit {number}" for number in range(classes))
    return make_dataset(
        "multiclass", labels, DIGITS.data[rows], DIGITS.target[rows].astype(np.int64), **fields
    )


def digit_properties(count=400, **fields):
    """Multilabel: even, has a loop, above four."""
    target = DIGITS.target[:count]
    targets = np.stack([target % 2 == 0, np.isin(target, (0, 6, 8, 9)), target > 4], axis=1)
    return make_dataset("multilabel", ("even", "loop", "high"), DIGITS.data[:count], targets, **fields)


def ink(count=400, **fields):
    """Regression: the ink on the lower half of a scan, from its upper half."""
    upper, lower = DIGITS.data[:count, :32], DIGITS.data[:count, 32:].sum(axis=1)
    return make_dataset("regression", (), upper, lower, **fields)


def standardised(embeddings, of=None):
    """As a fit on `of` does it: by the spread, or by a part of the median one where that is larger."""
    seen = (embeddings if of is None else of).astype(np.float64)
    spread = seen.std(axis=0)
    least = LEAST_SCALE * np.median(spread[spread > 0])
    return (embeddings - seen.mean(axis=0)) / np.maximum(spread, least) / np.sqrt(seen.shape[1])
