"""What is kept of a training, where it is said beforehand what each epoch answers to validation."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from models.strategies.adapted import Adapted, ScaledHead
from models.strategies.budget import Budget
from models.strategies.imbalance import weigh
from models.strategies.objective import objective
from models.strategies.options import TrainingOptions
from models.strategies.training import Lesson, train
from tests.unit.ladder import Ticking

pytestmark = pytest.mark.usefixtures("one_thread")

ROWS, HELD = np.arange(30), np.arange(30, 40)
TARGETS = np.arange(40) % 2


class Answers:
    """A source that makes so many of the ten answers right: the start's number first, then each epoch's."""

    passes = 1

    def __init__(self, right):
        self.right = iter(right)

    def training(self, rows, rng):
        return torch.from_numpy(rng.normal(size=(len(rows), 2)).astype(np.float32))

    def answering(self, rows, number):
        wrong = np.arange(len(rows)) >= next(self.right)
        return torch.eye(2)[TARGETS[rows] ^ wrong]


class Course:
    """A head that begins as the identity and hardly moves."""

    def __init__(self, right, losses, **options):
        given = {"epochs": len(right) - 1, "monitor": "end", "patience": 1, "batch_size": 10} | options
        self.options = TrainingOptions(warmup_epochs=0, augmentation="none", lr=1e-4, **given)
        self.right, self.losses = right, iter(losses)
        head = ScaledHead(2, 2)
        head.load_state_dict(head.state_dict() | {"weight": torch.eye(2), "bias": torch.zeros(2)})
        self.adapted = Adapted(nn.Identity(), (), head)
        self.states = [self.adapted.state()]  # of the start, then of each epoch

    def run(self, *, held=HELD, budget=None, **arguments):
        lesson = Lesson(
            kind="multiclass",
            targets=TARGETS,
            source=Answers(self.right),
            objective=objective("multiclass", TARGETS, weigh("multiclass", TARGETS, 2)),
            options=self.options,
        )
        return train(
            self.adapted,
            lesson,
            ROWS,
            held,
            judge=lambda logits, rows: torch.tensor(next(self.losses)),
            budget=budget or Budget(clock=None),
            report=lambda entry: self.states.append(self.adapted.state()) if entry["epoch"] else None,
            **arguments,
        )

    def left_at(self, epoch):
        """Whether the network has the state of that epoch, and of no other."""
        now = self.adapted.state()
        same = [all(torch.equal(now[name], then[name]) for name in now) for then in self.states]
        return same == [number == epoch for number in range(len(self.states))]


@pytest.mark.parametrize(
    ("right", "losses", "kept"),
    [
        ([5, 6, 7], [1.0, 0.9, 0.8], 2),
        ([5, 2, 6], [1.0, 3.0, 1.1], 2),
        ([5, 9, 6], [1.0, 0.1, 0.9], 2),
        ([6, 9, 5], [1.0, 0.1, 0.9], 0),
        ([6, 2, 5], [1.0, 3.0, 1.1], 0),
        ([5, 9, 5], [1.0, 0.1, 0.9], 0),
        ([5, 2, 5], [1.0, 3.0, 1.1], 0),
        ([5, 6, 9], [1.0, 0.9, math.nan], 0),
        ([5, 6, 9], [math.nan, 0.9, math.inf], 0),
    ],
    ids=[
        "better", "better after a dip", "better, best between", "worse, best between", "worse after a dip",
        "as many right and surer", "as many right and less sure", "no numbers", "no numbers from the start",
    ],
)  # fmt: skip
def test_validation_chooses_the_end_or_the_start_and_no_epoch_between_them(right, losses, kept):
    course = Course(right, losses)
    trained = course.run()

    assert (trained.epochs, trained.ended, len(trained.history)) == (kept, "epochs", 3)
    assert course.left_at(kept)
    assert (trained.logits.argmax(axis=1) == TARGETS[HELD]).sum() == right[kept]


@pytest.mark.parametrize("monitor", ["score", "loss"])
def test_answers_that_are_no_numbers_are_never_the_best(monitor):
    """Whichever class they are taken for is right now and then."""
    course = Course([5, 9, 9], [1.0, math.nan, math.nan], monitor=monitor, patience=2)
    assert course.run().epochs == 0


def test_without_validation_the_end_is_kept():
    course = Course([5, 5, 5], [])
    assert course.run(held=HELD[:0]).epochs == 2
    assert course.left_at(2)


def test_where_another_chooses_the_end_is_kept():
    """Strategy auto compares it with the head by itself."""
    course = Course([5, 5, 4], [1.0, 1.0, 2.0])
    assert course.run(keep_last=True).epochs == 2
    assert course.left_at(2)


def test_without_a_monitor_the_end_is_kept_however_bad():
    course = Course([5, 5, 4], [1.0, 1.0, 2.0], monitor="none")
    assert course.run().epochs == 2
    assert course.left_at(2)


@pytest.mark.parametrize(("last", "better"), [(6, True), (4, False)])
def test_where_time_is_up_the_last_whole_epoch_stands_for_the_end(last, better):
    course = Course([5] + [last] * 50, [1.0] * 51)
    trained = course.run(budget=Budget.of(40, Ticking()), planned=50)
    reached = len(trained.history) - 1

    assert trained.ended == "max_seconds"
    assert 0 < reached < 50
    assert trained.epochs == (reached if better else 0)
    assert course.left_at(trained.epochs)


def test_without_time_for_an_epoch_the_start_is_kept():
    course = Course([5, 6], [1.0, 0.9])
    trained = course.run(budget=Budget.of(1, Ticking()))

    assert (trained.epochs, trained.ended) == (0, "max_seconds")
    assert trained.logits is not None
