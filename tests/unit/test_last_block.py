from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from models.blocks import coarse_blocks
from models.strategies.explore import explore
from models.strategies.finish import finish, fit
from models.strategies.head import fit_head
from models.strategies.last_block import last_block
from models.strategies.options import HeadOptions, LastBlockOptions
from models.tail import split_at
from models.views import views_of
from tests.networks import tiny
from tests.unit.ladder import Ticking, embedded, feature_maps, scans

pytestmark = pytest.mark.usefixtures("one_thread")

LABELS = ("zero", "one", "two", "three")


def normed():
    """`tiny` with a batch norm in each stage."""
    backbone = tiny()
    for number, stage in enumerate((backbone.module.stem, backbone.module.body)):
        width = (8, 16)[number]
        stage.insert(1, nn.BatchNorm2d(width))
    return replace(backbone, module=backbone.module.eval())


class Case:
    def __init__(self, kind="multiclass", count=300, augmentation="light", backbone=None, **fields):
        self.backbone = backbone or normed()
        pixels, digits = scans(self.backbone, count)
        targets, labels = {
            "multiclass": (digits.astype(np.int64), LABELS),
            "multilabel": (np.stack([digits % 2 == 0, digits > 1], axis=1), ("even", "high")),
            "regression": (digits.astype(np.float64) * 10 + 5, ()),
        }[kind]
        self.dataset = embedded(self.backbone, pixels, kind, targets, labels, **fields)
        self.split = split_at(self.backbone, 1)
        self.maps = feature_maps(self.backbone, pixels, self.split.stage, views_of(augmentation))
        self.total = sum(each.numel() for each in self.backbone.module.parameters())

    def fit(self, report=lambda _: None, clock=None, **options):
        given = LastBlockOptions(**{"epochs": 6, "lr": 5e-3, "batch_size": 16} | options)
        recipe = last_block(self.dataset, self.maps, self.split, given, total_backbone_parameters=self.total)
        return fit(recipe, report=report, clock=clock)

    def head(self):
        return fit_head(
            self.dataset, HeadOptions(), total_backbone_parameters=self.total, report=lambda _: None
        )


@pytest.mark.parametrize("kind", ["multiclass", "multilabel", "regression"])
def test_training_the_last_block_beats_the_head_alone(kind):
    case = Case(kind, count=700)
    tuned, head = case.fit(epochs=10).fit, case.head()
    ours, theirs = tuned.metrics["primary"], head.metrics["primary"]

    assert tuned.splits == head.splits
    assert tuned.evaluated_ids == head.evaluated_ids
    assert (tuned.evaluation, tuned.fitted_on) == ("test", "train+validation")
    assert ours["value"] > theirs["value"] if ours["higher_is_better"] else ours["value"] < theirs["value"]


@pytest.mark.parametrize("kind", ["multiclass", "multilabel", "regression"])
def test_training_starts_where_the_head_alone_ended(kind):
    """No epoch, no gain and no loss: the exact head, on the tail's embeddings."""
    case = Case(kind, augmentation="none")
    tuned, head = case.fit(epochs=0, warmup_epochs=0), case.head()

    assert tuned.fit.decision["epochs"]["served"] == 0
    scale = float(np.ptp(head.evaluated_scores))
    np.testing.assert_allclose(tuned.fit.evaluated_scores, head.evaluated_scores, atol=5e-3 * scale)
    np.testing.assert_allclose(tuned.fit.head.weight, head.head.weight, rtol=1e-4, atol=1e-4)


def test_the_served_head_and_tail_answer_what_was_scored_on():
    """Nothing is left out of them: fitted on train alone, they repeat the test's answers."""
    case = Case()
    tuned = case.fit(clock=Ticking(), max_seconds=60, epochs=50, patience=50)
    assert tuned.fit.fitted_on == "train"
    row = {id_: number for number, id_ in enumerate(case.dataset.ids)}
    test = [row[id_] for id_ in tuned.fit.evaluated_ids]
    with torch.no_grad():
        embeddings = tuned.network(torch.from_numpy(case.maps[test, 0]).float()).numpy()

    np.testing.assert_allclose(tuned.fit.head.predict(embeddings), tuned.fit.evaluated_scores, atol=1e-4)


def test_the_same_arguments_give_the_same_weights():
    one, other = (Case().fit(augmentation="light", label_smoothing=0.1) for _ in range(2))

    assert all(
        torch.equal(a, b) for a, b in zip(one.network.parameters(), other.network.parameters(), strict=True)
    )
    assert np.array_equal(one.fit.evaluated_scores, other.fit.evaluated_scores)
    assert one.fit.history == other.fit.history


def test_another_seed_gives_others():
    case = Case()

    assert case.fit(seed=0).fit.split_digest != case.fit(seed=1).fit.split_digest


@pytest.mark.parametrize("batch_norm", ["auto", "eval", "train"])
def test_frozen_statistics_stand_still_and_thawed_ones_move_only_when_asked(batch_norm):
    case = Case()
    before = {name: tensor.clone() for name, tensor in case.backbone.module.state_dict().items()}
    given = (*("train",) * 200, *("test",) * 100)  # without validation, the last epoch is what is kept
    case.dataset = replace(case.dataset, splits=given, split_by_user=(True,) * 300)
    tuned = case.fit(batch_norm=batch_norm, epochs=2, warmup_epochs=1)
    served = tuned.network.network.state_dict()
    statistics = [name for name in served if "running" in name]

    # of the trunk nothing is even copied into the tail
    assert not any(name.startswith("stem") for name in served)
    assert all(torch.equal(before[name], now) for name, now in case.backbone.module.state_dict().items())
    assert statistics
    moved = [name for name in statistics if not torch.equal(before[name], served[name])]
    assert moved == (statistics if batch_norm == "train" else [])
    assert not torch.equal(before["body.0.weight"], served["body.0.weight"])


def test_during_the_warm_up_the_head_trains_alone():
    case = Case()
    tuned = case.fit(epochs=0, warmup_epochs=3, patience=10)
    start = split_at(case.backbone, 1).tail

    assert all(
        torch.equal(a, b)
        for a, b in zip(start.state_dict().values(), tuned.network.state_dict().values(), strict=True)
    )
    assert [entry["phase"] for entry in tuned.fit.history] == ["start", *["warming up"] * 3]


def test_what_trains_is_said_by_name():
    case = Case()
    tuned = case.fit(epochs=1)
    counts = tuned.parameters.parameters

    assert counts == {
        "network.body.0.weight": 512,
        "network.body.0.bias": 16,
        "network.body.1.weight": 16,
        "network.body.1.bias": 16,
        "head.weight": 64,
        "head.bias": 4,
    }
    assert tuned.fit.trainable_parameters == sum(counts.values())
    assert tuned.fit.total_parameters == case.total + 68
    assert tuned.fit.decision["blocks"] == ["body"]


def test_small_data_is_evaluated_out_of_fold():
    case = Case(count=60)
    tuned = case.fit(epochs=3)

    assert (tuned.fit.evaluation, tuned.fit.fitted_on, tuned.fit.splits) == ("out_of_fold", "all", None)
    assert tuned.fit.evaluated_ids == case.dataset.ids
    assert sorted(tuned.validation_ids) == sorted(case.dataset.ids)
    assert len(tuned.fit.decision["epochs"]["best"]) == 5


@pytest.mark.parametrize(
    ("best", "served"), [([0, 13, 13], 13), ([13, 0, 0, 13], 0), ([2, 7, 4, 3], 3), ([5], 5)]
)
def test_over_folds_the_served_epochs_are_those_of_a_fold(best, served):
    case = Case(count=60)
    recipe = last_block(
        case.dataset,
        case.maps,
        case.split,
        LastBlockOptions(epochs=0, warmup_epochs=0),
        total_backbone_parameters=case.total,
    )
    candidate = explore(recipe, report=lambda _: None)
    first = candidate.attempts[0]
    attempts = tuple(replace(first, trained=replace(first.trained, epochs=each)) for each in best)

    assert replace(candidate, attempts=attempts).epochs == served


def test_validation_is_answered_before_the_test_is_looked_at():
    """Other test targets: the same candidate, and so the same choice."""
    case = Case()
    options = LastBlockOptions(epochs=3, lr=1e-2)

    def tried(dataset):
        recipe = last_block(dataset, case.maps, case.split, options, total_backbone_parameters=case.total)
        return explore(recipe, report=lambda _: None)

    first = tried(case.dataset)
    test = np.array([split == "test" for split in first.splits])
    spoilt = case.dataset.targets.copy()
    spoilt[test] = (spoilt[test] + 1) % 4
    second = tried(replace(case.dataset, targets=spoilt, splits=first.splits))

    assert np.array_equal(first.validation_scores, second.validation_scores)
    assert first.validation == second.validation
    assert first.epochs == second.epochs


@pytest.mark.parametrize("count", [300, 60], ids=["held out", "out of fold"])
def test_few_validation_examples_are_answered_in_folds_by_the_last_epoch(count):
    """The best of many epochs by a handful of answers flatters them; and the refit does as the folds did."""
    case = Case(count=count)
    options = LastBlockOptions(epochs=4, lr=0.3, patience=1)
    recipe = last_block(case.dataset, case.maps, case.split, options, total_backbone_parameters=case.total)
    candidate = explore(recipe, report=lambda _: None, few_validation=1000)
    tuned = finish(candidate, report=lambda _: None)

    assert [each.trained.epochs for each in candidate.attempts] == [5] * len(candidate.attempts)  # 1 warms up
    assert len(candidate.attempts) > 1
    assert (tuned.fit.decision["epochs"]["served"], tuned.fit.decision["epochs"]["served_planned"]) == (5, 4)


def test_progress_is_told_with_losses_score_and_time_left():
    said = []
    Case().fit(report=said.append, clock=Ticking(), epochs=2)
    epochs = [each for each in said if each.get("phase") == "training"]

    assert [each["epoch"] for each in epochs] == [2, 3]
    assert {"train_loss", "validation_loss", "score", "epochs", "seconds_left"} <= epochs[0].keys()
    assert epochs[0]["seconds_left"] > 0
    assert said[0]["phase"] == "splitting"
    assert "refitting" in {each["phase"] for each in said}


def test_a_budget_that_ends_in_mid_epoch_keeps_the_best_so_far():
    tuned = Case().fit(clock=Ticking(), max_seconds=40, epochs=50, patience=50)
    decision = tuned.fit.decision

    assert decision["epochs"]["ended_by"] == ["max_seconds"]
    assert len(tuned.fit.history) < 51
    assert tuned.fit.metrics["primary"]["value"] > 0.5


def test_a_budget_plans_fewer_epochs_rather_than_cutting_the_schedule_off():
    """The rates come down to their end within the time that there is."""
    epochs = Case().fit(clock=Ticking(), max_seconds=60, epochs=50, patience=50).fit.decision["epochs"]
    (planned,) = epochs["planned"]

    assert 0 < planned < 50
    assert epochs["best"][0] <= planned + 1  # and the warm-up


def test_the_rates_of_a_refit_have_come_down_when_it_ends():
    """No validation stops it: cut off at a high rate, what is served would be as good as luck has it."""
    tuned = Case().fit(epochs=30, patience=3)
    epochs = tuned.fit.decision["epochs"]

    assert tuned.fit.fitted_on == "train+validation"
    assert epochs["served"] == epochs["best"][0] < 30
    assert epochs["served_planned"] == max(0, epochs["served"] - 1)  # without the warm-up


def test_a_budget_for_nothing_keeps_the_head():
    tuned = Case().fit(clock=Ticking(), max_seconds=2)

    assert tuned.fit.decision["epochs"]["best"] == [0]
    assert tuned.fit.metrics["primary"]["value"] > 0.5


def test_training_stops_when_validation_gets_no_better():
    tuned = Case().fit(epochs=60, patience=2, lr=0.3)

    assert tuned.fit.decision["epochs"]["ended_by"] == ["patience"]
    assert len(tuned.fit.history) < 61


def test_without_early_stopping_the_last_epoch_is_kept_however_validation_went():
    fitted = Case().fit(lr=0.5, epochs=4, patience=1, monitor="none").fit
    scores = [entry["score"] for entry in fitted.history]
    assert max(scores) > scores[-1], "this rate is meant to spoil what the head starts with"
    assert len(scores) == 1 + 1 + 4
    assert fitted.decision["epochs"]["best"] == [5]


def test_answers_may_be_averaged_over_flips():
    case = Case(augmentation="heavy")
    one, averaged = case.fit(epochs=1), case.fit(epochs=1, average_flips=True)

    assert not np.array_equal(one.fit.evaluated_scores, averaged.fit.evaluated_scores)


def test_maps_of_another_stage_are_refused():
    case = Case()
    with pytest.raises(ValueError, match="feature maps"):
        last_block(
            case.dataset, case.maps[:, :, :4], case.split, LastBlockOptions(), total_backbone_parameters=1
        )


def test_the_blocks_of_a_tail_are_those_of_the_network():
    assert [block.name for block in coarse_blocks(normed())] == ["stem", "body"]
