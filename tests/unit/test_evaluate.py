import json

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, balanced_accuracy_score, f1_score, log_loss, r2_score

from models.evaluate import align_scores, compare, correct, evaluate, interval, losses

LABELS = ("cat", "dog", "owl")
TARGETS = np.array([0, 0, 1, 1, 1, 2])
SCORES = np.array(
    [[0.8, 0.1, 0.1], [0.3, 0.4, 0.3], [0.1, 0.8, 0.1], [0.2, 0.7, 0.1], [0.7, 0.2, 0.1], [0.1, 0.2, 0.7]],
    dtype=np.float32,
)
TAGS = np.array([[1, 0], [1, 1], [0, 0], [0, 1]], dtype=np.bool_)
TAG_SCORES = np.array([[0.9, 0.6], [0.4, 0.8], [0.2, 0.1], [0.6, 0.7]], dtype=np.float32)


def test_multiclass_metrics_are_those_of_scikit_learn():
    measured = evaluate("multiclass", LABELS, TARGETS, SCORES)
    predicted = SCORES.argmax(axis=1)
    assert measured["accuracy"] == 4 / 6
    assert measured["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(TARGETS, predicted))
    assert measured["macro_f1"] == pytest.approx(f1_score(TARGETS, predicted, average="macro"))
    assert measured["log_loss"] == pytest.approx(log_loss(TARGETS, SCORES), abs=1e-6)
    assert measured["confusion_matrix"] == {
        "labels": ["cat", "dog", "owl"],
        "counts": [[1, 1, 0], [1, 2, 0], [0, 0, 1]],
    }
    assert measured["per_class"][1] == {
        "label": "dog",
        "precision": pytest.approx(2 / 3),
        "recall": pytest.approx(2 / 3),
        "f1": pytest.approx(2 / 3),
        "support": 3,
    }
    assert measured["primary"] == {"name": "accuracy", "value": 4 / 6, "higher_is_better": True}
    assert measured["count"] == 6


def test_a_class_without_examples_is_named_and_in_no_mean():
    measured = evaluate("multiclass", LABELS, TARGETS[:5], SCORES[:5])
    assert measured["classes_without_examples"] == ["owl"]
    assert measured["per_class"][2] == {
        "label": "owl",
        "precision": 0.0,
        "recall": None,
        "f1": None,
        "support": 0,
    }
    assert measured["balanced_accuracy"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert len(measured["confusion_matrix"]["counts"]) == 3


def test_multilabel_metrics_are_those_of_scikit_learn():
    measured = evaluate("multilabel", ("red", "round"), TAGS, TAG_SCORES)
    assert measured["mean_average_precision"] == pytest.approx(average_precision_score(TAGS, TAG_SCORES))
    assert measured["macro_f1"] == pytest.approx(f1_score(TAGS, TAG_SCORES >= 0.5, average="macro"))
    assert measured["subset_accuracy"] == 1 / 4
    assert [row["support"] for row in measured["per_class"]] == [2, 2]


def test_average_precision_of_a_label_without_positives_is_left_out():
    measured = evaluate("multilabel", ("red", "round"), TAGS[[0, 2]], TAG_SCORES[[0, 2]])
    assert measured["classes_without_examples"] == ["round"]
    assert measured["per_class"][1]["average_precision"] is None
    assert measured["mean_average_precision"] == 1.0


def test_nothing_positive_at_all_has_no_mean():
    measured = evaluate("multilabel", ("red", "round"), TAGS[[2]], TAG_SCORES[[2]])
    assert measured["mean_average_precision"] is None
    assert measured["primary"]["value"] is None


def test_a_task_of_one_label_is_measured():
    measured = evaluate("multilabel", ("red",), TAGS[:, :1], TAG_SCORES[:, :1])
    assert measured["per_class"][0]["recall"] == 1 / 2
    assert measured["per_class"][0]["precision"] == 1 / 2


def test_regression_metrics():
    targets, values = np.array([1.0, 2.0, 4.0]), np.array([[1.5], [2.0], [3.0]], dtype=np.float32)
    measured = evaluate("regression", (), targets, values)
    assert measured["mae"] == pytest.approx(0.5)
    assert measured["rmse"] == pytest.approx(np.sqrt((0.25 + 1) / 3))
    assert measured["r2"] == pytest.approx(r2_score(targets, values[:, 0]))
    assert measured["primary"]["higher_is_better"] is False


@pytest.mark.parametrize("targets", [np.array([3.0]), np.array([3.0, 3.0])], ids=["one", "constant"])
def test_r2_is_undefined_without_spread(targets):
    values = np.zeros((len(targets), 1), dtype=np.float32)
    assert evaluate("regression", (), targets, values)["r2"] is None


@pytest.mark.parametrize(
    ("kind", "labels", "targets", "scores"),
    [
        ("multiclass", LABELS, TARGETS[:1], SCORES[:1]),
        ("multiclass", LABELS, TARGETS, np.eye(3, dtype=np.float32)[[1] * 6]),
        ("multilabel", ("red", "round"), TAGS[[2]], TAG_SCORES[[2]]),
        ("multilabel", ("red", "round"), TAGS, (TAG_SCORES > 0.5).astype(np.float32)),
        ("regression", (), np.array([1.0]), np.array([[2.0]], dtype=np.float32)),
    ],
    ids=["one-example", "certain-and-wrong", "no-positives", "certain-labels", "one-value"],
)
def test_metrics_are_always_json(kind, labels, targets, scores):
    json.dumps(evaluate(kind, labels, targets, scores), allow_nan=False)


def test_nothing_to_evaluate_is_an_error():
    with pytest.raises(ValueError, match="no examples"):
        evaluate("multiclass", LABELS, TARGETS[:0], SCORES[:0])


def test_losses_are_worst_for_what_was_most_wrong():
    assert losses("multiclass", TARGETS, SCORES).argmax() == 4
    assert losses("multiclass", TARGETS, SCORES)[0] == pytest.approx(-np.log(0.8), rel=1e-6)
    expected = -(np.log(0.9) + np.log(0.4)) / 2
    assert losses("multilabel", TAGS, TAG_SCORES)[0] == pytest.approx(expected, rel=1e-6)
    assert losses("regression", np.array([1.0]), np.array([[3.5]], dtype=np.float32)).tolist() == [2.5]
    assert np.isfinite(losses("multiclass", np.array([1]), np.array([[1.0, 0.0]], dtype=np.float32))).all()


def test_correct_is_the_right_class_or_every_label():
    assert correct("multiclass", TARGETS, SCORES).tolist() == [True, False, True, True, False, True]
    assert correct("multilabel", TAGS, TAG_SCORES).tolist() == [False, False, True, False]
    assert correct("regression", np.array([1.0]), np.array([[1.0]], dtype=np.float32)).tolist() == [False]


def test_only_strictly_better_is_better():
    best = np.eye(3, dtype=np.float32)[TARGETS]
    comparison = compare("multiclass", TARGETS, best, SCORES)
    assert (comparison.metric, comparison.new, comparison.old) == ("accuracy", 1.0, 4 / 6)
    assert comparison.better
    assert comparison.count == 6
    assert not compare("multiclass", TARGETS, SCORES, SCORES).better
    assert not compare("multiclass", TARGETS, SCORES, best).better


def test_a_smaller_error_is_better():
    near, far = np.array([[1.1], [2.0]], dtype=np.float32), np.array([[5.0], [2.0]], dtype=np.float32)
    assert compare("regression", np.array([1.0, 2.0]), near, far).better
    assert not compare("regression", np.array([1.0, 2.0]), far, near).better


def test_scores_of_an_older_version_are_aligned_by_label():
    old = np.array([[0.7, 0.3]], dtype=np.float32)
    assert align_scores(old, ("dog", "cat"), ("cat", "owl", "dog")).tolist() == [
        [pytest.approx(0.3), 0.0, pytest.approx(0.7)]
    ]


@pytest.mark.parametrize("kind", ["multiclass", "multilabel", "regression"])
def test_an_interval_is_of_the_metric_that_is_reported(kind):
    """With as many copies of one example as there are, no resampling changes anything."""
    targets = {
        "multiclass": np.zeros(6, dtype=np.int64),
        "multilabel": np.tile([True, False], (6, 1)),
        "regression": np.full(6, 3.0),
    }[kind]
    scores = np.tile(np.array([[0.7, 0.2]], dtype=np.float32), (6, 1))
    if kind == "regression":
        scores = scores[:, :1]
    labels = () if kind == "regression" else ("a", "b")
    reported = evaluate(kind, labels, targets, scores)["primary"]["value"]
    assert interval(kind, labels, targets, scores) == (pytest.approx(reported), pytest.approx(reported))
