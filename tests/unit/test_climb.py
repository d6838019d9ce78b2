"""Which rung is kept: the floor, the start that is believed, and what has to gain more than noise."""

import numpy as np
import pytest

from models.strategies.climb import Climb, Tried, merits, paired_gain

TARGETS = np.arange(200) % 2


def right(share: float, first: int = 0):
    """Answers of which a share is right: the examples from `first` on, round about."""
    scores = np.eye(2, dtype=np.float32)[1 - TARGETS] * 0.8 + 0.1
    rows = (np.arange(round(share * len(TARGETS))) + first) % len(TARGETS)
    scores[rows] = 1 - scores[rows]
    return scores


def tried(name, scores):
    return Tried(name=name, options={}, scores=scores)


def climb(start, **rungs):
    ladder = Climb("multiclass", TARGETS, start=start)
    kept = {name: ladder.consider(tried(name, scores)) for name, scores in rungs.items()}
    return ladder, kept


def test_the_start_is_believed_where_it_is_no_worse():
    ladder, kept = climb("last_block", head=right(0.8), last_block=right(0.8))
    assert kept["last_block"]
    assert ladder.goes_on


def test_the_start_is_left_where_it_is_worse():
    ladder, kept = climb("last_block", head=right(0.8), last_block=right(0.795))
    assert not kept["last_block"]
    assert ladder.best.name == "head"
    assert not ladder.goes_on
    assert "but it is worse" in ladder.record()["candidates"][-1]["why"]


@pytest.mark.parametrize(
    ("share", "first", "wins"), [(0.81, 30, False), (0.9, 0, True)], ids=["noise", "gain"]
)
def test_beyond_the_start_a_rung_has_to_gain_more_than_noise(share, first, wins):
    """One point more, but right on other examples: the paired difference is within its standard error."""
    ladder, kept = climb("head", head=right(0.8), last_block=right(share, first))
    assert kept["last_block"] == wins == ladder.goes_on
    gain = ladder.record()["candidates"][-1]["gain"]
    assert (gain["mean"] > gain["standard_error"]) == wins


def test_answers_to_the_same_examples_are_compared_in_pairs():
    """Ten points of difference on the very same examples are far beyond what two scores would show."""
    gain = paired_gain("multiclass", TARGETS, right(0.9), right(0.8))
    assert gain.mean == pytest.approx(0.1)
    assert gain.standard_error == pytest.approx(np.sqrt(0.1 * 0.9 / 199), rel=0.01)
    assert gain.standard_error < np.sqrt(0.9 * 0.1 / 200 + 0.8 * 0.2 / 200)


@pytest.mark.parametrize("kind", ["multilabel", "regression"])
def test_better_answers_have_more_merit(kind):
    targets = np.array([[True], [False]]) if kind == "multilabel" else np.array([1.0, 0.0])
    good, bad = np.array([[0.9], [0.1]], np.float32), np.array([[0.6], [0.4]], np.float32)
    assert (merits(kind, targets, good) > merits(kind, targets, bad)).all()


def test_what_is_left_out_says_why_and_changes_nothing():
    ladder, _ = climb("head", head=right(0.8))
    ladder.leave_out("lora", "no time")
    assert ladder.record()["candidates"][-1] == {"rung": "lora", "why": "not tried: no time"}
    assert ladder.record()["chosen"] == "head"
    assert ladder.goes_on
