"""service/trainer/weighing.py, and the judgement of what it measured."""

import numpy as np
import pytest

from service.preparing.outcomes import is_within
from service.trainer.jobs import Weighed, WeighedScore, WeighJob
from service.trainer.weighing import weigh

CLASSES = ("cat", "dog")


def certain(*numbers, of=2):
    return np.eye(of, dtype=np.float32)[list(numbers)]


def weighed(**changed) -> Weighed:
    job = {
        "kind": "multiclass",
        "labels": CLASSES,
        "targets": np.array([0, 0, 1, 1]),
        "old_labels": CLASSES,
        "old_scores": certain(0, 1, 1, 1),
        "new_labels": CLASSES,
        "new_scores": certain(0, 1, 0, 1),
    }
    return weigh(WeighJob(**job | changed), lambda _: None)


def measured(found: Weighed):
    return found.metric, found.count, found.old.value, found.new.value


def test_both_are_scored_on_the_same_examples():
    found = weighed()
    assert measured(found) == ("accuracy", 4, 0.75, 0.5)
    low, high = found.old.interval
    assert low < 0.75 < high <= 1


def test_columns_are_matched_by_their_labels():
    found = weighed(old_labels=("dog", "cat"), old_scores=certain(1, 1, 0, 0))
    assert measured(found) == ("accuracy", 4, 1.0, 0.5)


def test_a_class_that_one_of_them_does_not_know_counts_against_neither():
    """Renamed from puppy after the old version was trained."""
    found = weighed(
        old_labels=("cat", "puppy"), old_scores=certain(0, 0, 1, 1), new_scores=certain(0, 0, 0, 0)
    )
    assert measured(found) == ("accuracy", 2, 1.0, 1.0)


def test_of_many_labels_the_known_columns_are_scored():
    targets = np.array([[1, 0], [0, 1], [1, 1], [0, 0]], dtype=np.bool_)
    found = weighed(
        kind="multilabel",
        targets=targets,
        old_labels=("cat",),
        old_scores=np.array([[0.9], [0.1], [0.8], [0.2]], dtype=np.float32),
        new_scores=np.array([[0.1, 0], [0.9, 0], [0.8, 1], [0.2, 1]], dtype=np.float32),
    )
    assert measured(found) == ("mean_average_precision", 4, 1.0, pytest.approx(0.5))


@pytest.mark.parametrize("kind", ["multiclass", "multilabel"])
def test_versions_that_know_no_class_in_common_are_not_compared(kind):
    targets = np.array([0, 1]) if kind == "multiclass" else np.ones((2, 2), np.bool_)
    scores = certain(0, 1)
    found = weighed(kind=kind, targets=targets, old_labels=("a", "b"), old_scores=scores, new_scores=scores)
    assert (found.count, found.new.value) == (0, None)
    assert is_within(found, 1.0) is None


def test_a_regression_is_judged_by_the_spread_of_its_targets():
    targets = np.array([0.0, 10.0, 20.0, 30.0])
    old, new = (np.array(targets + off, dtype=np.float32)[:, None] for off in (1.0, 2.0))
    found = weighed(
        kind="regression",
        labels=(),
        targets=targets,
        old_labels=(),
        new_labels=(),
        old_scores=old,
        new_scores=new,
    )
    assert measured(found) == ("rmse", 4, 1.0, 2.0)
    assert found.spread == pytest.approx(11.18, abs=0.01)
    assert is_within(found, 0.08) is False
    assert is_within(found, 0.1) is True


@pytest.mark.parametrize(
    ("new", "tolerance", "within"),
    [(0.9, 0.0, True), (0.95, 0.0, True), (0.89, 0.01, True), (0.88, 0.01, False), (None, 1.0, None)],
)
def test_a_score_may_fall_by_the_tolerance_and_no_more(new, tolerance, within):
    found = Weighed(
        metric="accuracy",
        higher_is_better=True,
        count=100,
        old=WeighedScore(value=0.9, interval=None),
        new=WeighedScore(value=new, interval=None),
    )
    assert is_within(found, tolerance) is within
