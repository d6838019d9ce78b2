"""How sure a head should be, found on examples that it was not fitted on."""

import numpy as np
import pytest

from models.head import answers
from models.losses import losses
from models.strategies.calibration import MOST, sharpness


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
