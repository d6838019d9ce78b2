"""What a version got wrong, of each kind."""

import io

import numpy as np
import pytest

from service.store.records import Version
from service.web.mistakes import Evaluated


def version(kind, labels=("a", "b", "c"), threshold=None):
    known = dict.fromkeys(Version.__dataclass_fields__)
    return Version(**known | {"kind": kind, "labels": labels, "threshold": threshold})


def evaluated(kind, scores, targets, losses, **fields):
    buffer = io.BytesIO()
    ids = np.array([f"ex_{row}" for row in range(len(losses))])
    np.savez(
        buffer,
        ids=ids,
        scores=np.array(scores, np.float32),
        targets=np.array(targets),
        losses=np.array(losses),
    )
    return Evaluated.load(version(kind, **fields), buffer.getvalue())


def test_multiclass_mistakes_name_the_wrong_label_and_how_sure_it_was():
    known = evaluated(
        "multiclass", [[0.9, 0.1, 0], [0.2, 0.7, 0.1], [0.1, 0.3, 0.6]], [0, 0, 1], [0.1, 1.6, 1.2]
    )
    assert known.wrong.tolist() == [1, 2]
    miss = known.miss(1)
    assert (miss.example_id, miss.truth, miss.prediction) == ("ex_1", "a", "b")
    assert miss.score == pytest.approx(0.7)


def test_multilabel_mistakes_are_judged_at_the_versions_threshold():
    scores, targets = [[0.4, 0.9, 0.1], [0.2, 0.8, 0.6]], [[True, True, False], [False, True, False]]
    strict = evaluated("multilabel", scores, targets, [0.5, 0.4])
    assert strict.wrong.tolist() == [0, 1]
    assert strict.miss(0).truth == ["a", "b"]
    assert strict.miss(0).prediction == ["b"]
    assert strict.miss(0).score == pytest.approx(0.4)
    assert strict.miss(1).score == pytest.approx(0.6)
    assert evaluated("multilabel", scores, targets, [0.5, 0.4], threshold=0.3).wrong.tolist() == [1]


def test_a_regression_shows_all_the_farthest_off_first():
    known = evaluated("regression", [[1.0], [5.0], [2.0]], [1.5, 1.0, 2.0], [0.5, 4.0, 0.0], labels=())
    assert known.wrong.tolist() == [1, 0, 2]
    assert (known.miss(1).truth, known.miss(1).prediction, known.miss(1).score) == (1.0, 5.0, None)


def test_a_version_without_mistakes_has_none():
    assert evaluated("multiclass", [[0.9, 0.1, 0.0]], [0], [0.1]).wrong.tolist() == []
