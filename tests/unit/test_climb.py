"""Which rung is kept: the floor, or what gains more than noise."""

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


def surer(scores):
    """The same answers, surer where they are right, hedged where they are wrong."""
    own = scores[np.arange(len(TARGETS)), TARGETS]
    own = np.where(own > 0.5, 0.98, 0.45).astype(np.float32)
    return np.where(np.eye(2, dtype=bool)[TARGETS], own[:, None], 1 - own[:, None])


@pytest.mark.parametrize("start", ["head", "last_block"])
def test_a_rung_that_answers_the_same_is_not_kept_wherever_the_rule_starts(start):
    ladder, kept = climb(start, head=right(0.8), last_block=right(0.8))
    assert not kept["last_block"]
    assert not ladder.goes_on
    assert "no more than noise" in ladder.record()["candidates"][-1]["why"]


def test_the_loss_decides_between_answers_that_are_right_alike():
    ladder, kept = climb("head", head=right(0.8), last_block=surer(right(0.8)))
    assert kept["last_block"]
    assert ladder.record()["candidates"][-1]["loss_gain"]["mean"] > 0


def test_a_better_loss_does_not_excuse_fewer_right_answers():
    ladder, kept = climb("head", head=right(0.9), last_block=surer(right(0.8)))
    assert ladder.record()["candidates"][-1]["loss_gain"]["mean"] > 0
    assert not kept["last_block"]


def test_surer_answers_that_are_no_better_are_not_kept():
    """One factor on all logits makes the loss of one rung less, and would of the other."""
    hedged = right(0.8)
    told_apart = np.where(hedged > 0.5, 0.8, 0.2).astype(np.float32)  # as sure as 80 % are right
    ladder, kept = climb("head", head=hedged, stages=told_apart)
    assert not kept["stages"]
    assert ladder.record()["candidates"][-1]["loss_gain"]["mean"] == pytest.approx(0, abs=1e-4)


def test_nothing_is_gained_on_a_rung_that_is_always_right():
    """A little more certainty isn't worth the passes and the time that a deeper rung costs."""
    ladder, kept = climb("head", head=right(1.0), stages=surer(right(1.0)))
    assert not kept["stages"]
    assert "every one of these examples" in ladder.record()["candidates"][-1]["why"]


def test_a_frozen_rung_that_gains_nothing_does_not_end_the_climb():
    """What earlier stages say is one question, whether the last block should train another."""
    ladder, kept = climb("head", head=right(0.8), stages=right(0.8))
    assert not kept["stages"]
    assert ladder.goes_on


def test_the_ladder_goes_on_until_the_start_was_tried():
    ladder, kept = climb("finetune", head=right(0.8), last_block=right(0.7))
    assert not kept["last_block"]
    assert ladder.goes_on


@pytest.mark.parametrize(
    ("share", "first", "wins"), [(0.81, 30, False), (0.9, 0, True)], ids=["noise", "gain"]
)
def test_a_rung_has_to_gain_more_than_noise(share, first, wins):
    """One point more, but right on other examples: the paired difference is within its standard error."""
    ladder, kept = climb("head", head=right(0.8), last_block=right(share, first))
    assert kept["last_block"] == wins == ladder.goes_on
    gain = ladder.record()["candidates"][-1]["gain"]
    assert (gain["mean"] > gain["standard_error"]) == wins


def test_answers_to_the_same_examples_are_compared_in_pairs():
    """Ten points of difference on the very same examples are far beyond what two scores would show."""
    gain = paired_gain(*(merits("multiclass", TARGETS, right(share)) for share in (0.9, 0.8)))
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
