"""How sure a head should be, found on examples that it was not fitted on."""

import numpy as np
import pytest

from models.head import answers
from models.losses import losses
from models.strategies.calibration import MOST, calibrated, sharpness


@pytest.fixture
def drawn():
    return np.random.default_rng(5)


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.5])
@pytest.mark.parametrize("kind", ["multiclass", "multilabel"])
def test_logits_that_are_too_sure_by_a_factor_get_it_back(drawn, kind, factor):
    logits = drawn.normal(scale=2, size=(20_000, 3))
    chances = answers(kind, logits)
    if kind == "multiclass":
        targets = (chances.cumsum(axis=1) < drawn.random((20_000, 1))).sum(axis=1)
    else:
        targets = drawn.random((20_000, 3)) < chances
    assert sharpness(kind, targets, logits * factor) == pytest.approx(1 / factor, rel=0.05)


def test_no_other_factor_loses_less(drawn):
    logits, targets = drawn.normal(size=(50, 3)), drawn.integers(0, 3, 50)
    logits[np.arange(50), targets] += 0.7  # the targets aren't noise alone
    best = sharpness("multiclass", targets, logits)
    lost = {
        factor: losses("multiclass", targets, answers("multiclass", logits * factor)).mean()
        for factor in (best * 0.9, best, best * 1.1)
    }
    assert min(lost, key=lost.get) == best


def test_it_is_bounded_where_every_answer_is_right():
    assert sharpness("multiclass", np.zeros(9, np.int64), np.tile([1.0, 0.0], (9, 1))) <= MOST


def test_a_regression_and_no_examples_leave_it_as_it_is():
    assert sharpness("regression", np.ones(3), np.ones((3, 1))) == 1.0
    assert sharpness("multiclass", np.zeros(0, np.int64), np.zeros((0, 2))) == 1.0


@pytest.mark.parametrize("kind", ["multiclass", "multilabel"])
def test_calibrated_answers_lose_no_more_and_keep_their_order(drawn, kind):
    logits = drawn.normal(size=(200, 3))
    targets = logits.argmax(axis=1) if kind == "multiclass" else logits > 0
    logits = 3 * (logits + drawn.normal(size=(200, 3)))  # too sure of what they can't know
    scores = answers(kind, logits)
    better = calibrated(kind, targets, scores)
    assert losses(kind, targets, better).mean() < losses(kind, targets, scores).mean()
    assert (better.argsort(axis=1) == scores.argsort(axis=1)).all()
    np.testing.assert_allclose(calibrated(kind, targets, better), better, atol=1e-3)


def test_answers_that_are_certain_stay_finite():
    scores, targets = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0, 0])
    assert np.isfinite(losses("multiclass", targets, calibrated("multiclass", targets, scores))).all()
    values = np.array([[3.0], [4.0]])
    assert calibrated("regression", np.array([1.0, 2.0]), values) is values
