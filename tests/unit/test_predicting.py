"""How a head's numbers become predictions."""

import numpy as np
import pytest

from models.errors import UnsupportedImage
from service.store.records import Resolved
from service.web.images import ImageRequest
from service.web.predicting import Decoded, Shape, predictions

ALL = Shape(top_k=None, threshold=None)


def resolved(kind, labels=("a", "b", "c"), threshold=None):
    return Resolved(
        task_id="task_1", task_name="t", version=1, kind=kind, labels=labels, threshold=threshold,
        head_digest="d", head_key="k", backbone_digest="b",
    )  # fmt: skip


def images(rows, errors=()):
    request = ImageRequest([b""] * (len(rows) + len(errors)), None, ("input",))
    return Decoded({1: np.zeros((len(rows), 1, 1, 3), np.uint8)}, list(rows), dict(errors), request)


def say(kind, outputs, shape=ALL, **fields):
    outputs = np.array(outputs, np.float32)
    return predictions(resolved(kind, **fields), images(range(len(outputs))), outputs, shape)


def test_multiclass_is_best_first():
    (said,) = say("multiclass", [[0.2, 0.5, 0.3]])
    assert (said["label"], said["score"]) == ("b", 0.5)
    assert [score["label"] for score in said["scores"]] == ["b", "c", "a"]


@pytest.mark.parametrize(("threshold", "label"), [(None, "b"), (0.5, "b"), (0.51, None)])
def test_below_the_threshold_multiclass_has_no_label(threshold, label):
    (said,) = say("multiclass", [[0.2, 0.5, 0.3]], Shape(None, threshold))
    assert said["label"] == label
    assert said["score"] == 0.5


@pytest.mark.parametrize(("top_k", "count"), [(None, 5), (1, 1), (7, 7), (100, 8)])
def test_multiclass_lists_five_scores_unless_told(top_k, count):
    labels = tuple("abcdefgh")
    (said,) = say("multiclass", [np.linspace(0, 1, 8)], Shape(top_k, None), labels=labels)
    assert len(said["scores"]) == count


@pytest.mark.parametrize(
    ("own", "asked", "labels"), [(None, None, ["c", "b"]), (0.6, None, ["c"]), (0.6, 0.1, ["c", "b", "a"])]
)
def test_multilabel_has_the_labels_at_or_above_a_threshold(own, asked, labels):
    (said,) = say("multilabel", [[0.25, 0.5, 0.75]], Shape(None, asked), threshold=own)
    assert said["labels"] == labels
    assert len(said["scores"]) == 3


def test_a_regression_has_a_value():
    assert say("regression", [[1.5], [-2.0]], labels=()) == [
        {"index": 0, "value": 1.5},
        {"index": 1, "value": -2.0},
    ]


def test_failed_images_keep_their_place():
    batch = images([0, 2], {1: UnsupportedImage()}.items())
    made = predictions(resolved("regression", labels=()), batch, np.array([[1.0], [3.0]], np.float32), ALL)
    assert [(each["index"], each.get("value")) for each in made] == [(0, 1.0), (1, None), (2, 3.0)]
    assert made[1]["error"].errors[0].pointer == "/input/1"
