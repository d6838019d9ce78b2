import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from models.dataset import SPLITS
from models.errors import UntrainableData
from models.evaluate import evaluate
from models.head import LinearHead
from models.splits import assign_folds
from models.strategies.head import fit_head
from models.strategies.options import HeadOptions
from models.strategies.strength import fit_one, judge_nested
from tests.unit.datasets import DIGITS, digit_properties, digits, ink, make_dataset, standardised

BACKBONE = 3_000_000


def fit(dataset, seed=0, report=lambda _: None, l2=None, class_weight="auto", **more):
    options = HeadOptions(seed=seed, l2=l2, class_weight=class_weight)
    return fit_head(dataset, options, total_backbone_parameters=BACKBONE, report=report, **more)


def few(per_class=8, classes=10, **fields):
    """So few of each class that nothing is held out."""
    rows = np.concatenate([np.flatnonzero(DIGITS.target == number)[:per_class] for number in range(classes)])
    labels = tuple(f"digit {number}" for number in range(classes))
    return make_dataset(
        "multiclass", labels, DIGITS.data[rows], DIGITS.target[rows].astype(np.int64), **fields
    )


def test_digits_are_learned_and_scored_on_test():
    result = fit(digits(600))
    assert result.evaluation == "test"
    assert result.fitted_on == "train+validation"
    assert result.metrics["accuracy"] > 0.9
    assert result.metrics["count"] == result.splits.count("test") == len(result.evaluated_ids)
    assert result.threshold is None


def test_what_is_served_is_fitted_on_train_and_validation():
    """It equals scikit-learn's pipeline on exactly those, standardisation folded in."""
    dataset = digits(600)
    result = fit(dataset)
    rows = np.array([split != "test" for split in result.splits])
    scaled = standardised(dataset.embeddings, dataset.embeddings[rows])
    strength = result.decision["strength"]["chosen"]
    model = LogisticRegression(C=1 / strength, tol=1e-8, max_iter=10_000).fit(
        scaled[rows], dataset.targets[rows]
    )
    served = result.head.predict(dataset.embeddings)
    assert served == pytest.approx(model.predict_proba(scaled), abs=2e-3)


def test_what_is_scored_has_seen_train_only():
    dataset = digits(600)
    result = fit(dataset)
    train, test = (np.array([split == name for split in result.splits]) for name in ("train", "test"))
    scaled = standardised(dataset.embeddings, dataset.embeddings[train])
    strength = result.decision["strength"]["chosen"]
    model = LogisticRegression(C=1 / strength, tol=1e-8, max_iter=10_000)
    model.fit(scaled[train], dataset.targets[train])
    assert result.evaluated_scores == pytest.approx(model.predict_proba(scaled[test]), abs=2e-3)
    assert result.evaluated_ids == tuple(np.array(dataset.ids)[test])


@pytest.mark.parametrize("dataset", [digits(400), few(), digit_properties(300), ink(200)])
def test_a_strength_that_is_given_is_not_chosen(dataset):
    result = fit(dataset, l2=0.7)
    strength = result.decision["strength"]
    assert (strength["chosen"], strength["chosen_by"], strength["at_edge"]) == (0.7, "the request", False)
    assert [entry["strength"] for entry in result.history] == [0.7]
    assert set(strength.get("chosen_per_fold", [0.7])) == {0.7}
    chosen = fit(dataset)
    same = fit(dataset, l2=chosen.decision["strength"]["chosen"])
    assert same.head.weight.tobytes() == chosen.head.weight.tobytes()


def test_a_class_weight_that_is_given_reaches_the_served_head():
    """A rare class that weighs as much as the common one is answered more often."""
    both = digits(400, classes=2)
    rows = np.concatenate([np.flatnonzero(both.targets == 0), np.flatnonzero(both.targets == 1)[:30]])
    noise = np.random.default_rng(0).normal(0, 12, (len(rows), 64))
    dataset = make_dataset("multiclass", both.labels, both.embeddings[rows] + noise, both.targets[rows])
    shares = {}
    for rule in ("none", "auto", "balanced"):
        result = fit(dataset, l2=1.0, class_weight=rule)
        assert result.decision["class_weighting"]["applied"] == (rule != "none")
        shares[rule] = result.head.predict(dataset.embeddings)[:, 1].mean()
    assert shares["none"] < shares["auto"] < shares["balanced"]


@pytest.mark.parametrize("dataset", [digits(400), few(), digit_properties(300), ink(200)])
def test_the_same_seed_gives_the_same_bits(dataset):
    first, second = fit(dataset, seed=3), fit(dataset, seed=3)
    assert first.head.weight.tobytes() == second.head.weight.tobytes()
    assert first.head.bias.tobytes() == second.head.bias.tobytes()
    assert first.evaluated_scores.tobytes() == second.evaluated_scores.tobytes()
    assert (first.split_digest, first.decision) == (second.split_digest, second.decision)


def test_test_examples_choose_nothing():
    """With every test label wrong, and every test embedding too, not a bit of the head differs."""
    dataset = digits(400)
    splits = fit(dataset).splits
    test = np.array([split == "test" for split in splits])
    kept = replace(dataset, splits=splits)
    targets, embeddings = dataset.targets.copy(), dataset.embeddings.copy()
    targets[test] = (targets[test] + 1) % 10
    embeddings[test] = embeddings[test][:, ::-1] * 3
    spoilt = replace(kept, targets=targets, embeddings=embeddings)
    first, second = fit(kept), fit(spoilt)
    assert first.head.weight.tobytes() == second.head.weight.tobytes()
    assert first.head.bias.tobytes() == second.head.bias.tobytes()
    assert first.decision["strength"] == second.decision["strength"]
    assert first.decision["class_weighting"] == second.decision["class_weighting"]
    assert second.metrics["accuracy"] < 0.2 < first.metrics["accuracy"]


def test_out_of_fold_answers_owe_nothing_to_their_own_label():
    """Relabelling one fold changes no answer to it: neither its models nor their strengths have seen it."""
    dataset = few()
    result = fit(dataset)
    folds = _folds_of(dataset, result)
    members = folds == 0
    # labels are exchanged within the fold, so that the folds themselves stay as they are
    targets = dataset.targets.copy()
    targets[members] = np.roll(targets[members], 5)
    assert (targets != dataset.targets).any()
    spoilt = replace(dataset, targets=targets)
    assert (_folds_of(spoilt, result) == folds).all()
    nested = _nested(spoilt, folds)
    assert nested[members].tobytes() == result.evaluated_scores[members].tobytes()
    assert nested[~members].tobytes() != result.evaluated_scores[~members].tobytes()


def _folds_of(dataset, result):
    folds = assign_folds(few(), 5, np.random.default_rng(0))
    assert folds.digest == result.split_digest
    return folds.numbers


def _nested(dataset, folds):
    with threadpool_limits(limits=1, user_api="blas"):
        return judge_nested(dataset, folds, lambda *_: None).scores


def test_few_examples_are_evaluated_out_of_fold_and_all_are_fitted_on():
    dataset = few()
    result = fit(dataset)
    assert result.evaluation == "out_of_fold"
    assert result.fitted_on == "all"
    assert result.splits is None
    assert result.evaluated_ids == dataset.ids
    assert result.metrics["count"] == 80
    assert 0.7 < result.metrics["accuracy"] < 1
    assert "'digit 0', has 8 examples" in result.decision["evaluation"]["because"]
    assert result.decision["folds"]["count"] == 5
    assert sum(result.decision["folds"]["sizes"]) == 80


@pytest.mark.parametrize("kind", ["multiclass", "multilabel", "regression"])
def test_four_examples_are_enough(kind):
    embeddings = DIGITS.data[:4]
    if kind == "multiclass":
        dataset = make_dataset(kind, ("a", "b"), embeddings, np.array([0, 0, 1, 1]))
    elif kind == "multilabel":
        dataset = make_dataset(kind, ("a",), embeddings, np.array([[True], [True], [False], [False]]))
    else:
        dataset = make_dataset(kind, (), embeddings, np.array([1.0, 2.0, 3.0, 4.0]))
    result = fit(dataset)
    assert result.evaluation == "out_of_fold"
    assert np.isfinite(result.head.predict(dataset.embeddings)).all()
    json.dumps([result.metrics, result.decision, result.history], allow_nan=False)


def test_once_there_is_a_test_split_it_stays_one():
    """A new class with few examples doesn't turn version 1's test into version 2's training data."""
    splits = ("test",) * 10 + ("train",) * 40 + (None,) * 30
    result = fit(few(splits=splits))
    assert result.evaluation == "test"
    assert result.splits[:50] == splits[:50]


def test_the_users_train_and_test_folders_are_kept():
    """Without a validation split of theirs, the strength is chosen by folds of train."""
    splits = ("train",) * 200 + ("test",) * 100
    result = fit(digits(300, splits=splits, split_by_user=(True,) * 300))
    assert result.splits == splits
    assert result.decision["strength"]["chosen_by"] == "cross-validation within train"
    assert result.metrics["count"] == 100
    assert result.metrics["accuracy"] > 0.85


def test_a_train_folder_alone_is_evaluated_out_of_fold():
    result = fit(digits(300, splits=("train",) * 300, split_by_user=(True,) * 300))
    assert result.evaluation == "out_of_fold"
    assert result.splits is None


def test_a_test_split_of_everything_leaves_nothing_to_train_on():
    with pytest.raises(UntrainableData, match="train split has 0 examples"):
        fit(digits(60, splits=("test",) * 60, split_by_user=(True,) * 60))


def test_a_train_split_of_one_class_is_refused():
    dataset = digits(60, classes=2)
    splits = tuple("test" if target else "train" for target in dataset.targets)
    with pytest.raises(UntrainableData, match="one class only"):
        fit(replace(dataset, splits=splits))


def test_multilabel_answers_every_label_on_its_own():
    result = fit(digit_properties(500))
    assert result.evaluation == "test"
    assert result.threshold == 0.5
    assert result.metrics["mean_average_precision"] > 0.9
    assert result.head.predict(digit_properties(10).embeddings).sum(axis=1).max() > 1.2


def test_regression_predicts_in_the_targets_units():
    dataset = ink(400)
    result = fit(dataset)
    assert result.evaluation == "test"
    assert result.metrics["r2"] > 0.2
    assert result.evaluated_scores.mean() == pytest.approx(dataset.targets.mean(), rel=0.1)
    assert result.head.labels == ()


def test_values_that_images_dont_tell_are_answered_with_about_their_mean():
    dataset = replace(ink(400), targets=np.random.default_rng(3).normal(size=400))
    result = fit(dataset)
    assert result.metrics["r2"] > -0.1
    assert result.evaluated_scores.std() < 0.3


def test_few_values_are_evaluated_out_of_fold():
    assert fit(ink(60)).evaluation == "out_of_fold"


def test_a_rare_class_is_weighted_and_the_rule_recorded():
    rows = np.concatenate([np.flatnonzero(DIGITS.target == 3), np.flatnonzero(DIGITS.target == 8)[:30]])
    dataset = make_dataset(
        "multiclass", ("3", "8"), DIGITS.data[rows], (DIGITS.target[rows] == 8).astype(int)
    )
    weighting = fit(dataset).decision["class_weighting"]
    assert weighting["applied"]
    assert weighting["ratio"] > 3


def test_the_decision_says_what_was_tried_and_chosen():
    decision = fit(digits(400)).decision
    candidates = decision["strength"]["candidates"]
    scores = [entry["score"] for entry in candidates if entry["score"] is not None]
    best = next(entry for entry in candidates if entry["score"] == min(scores))
    assert decision["strength"]["chosen"] == best["strength"]
    assert decision["strength"]["criterion"] == "log-loss"
    assert decision["inputs"]["examples"] == 400
    assert decision["split"] == pytest.approx({"train": 240, "validation": 80, "test": 80}, abs=2)


@pytest.mark.parametrize("dataset", [digits(300), few(), digit_properties(200), ink(120), ink(20)])
def test_everything_recorded_is_json(dataset):
    result = fit(dataset)
    json.dumps([result.metrics, result.decision, result.history], allow_nan=False)


@pytest.mark.parametrize("dataset", [digits(300), few()], ids=["held-out", "out-of-fold"])
def test_progress_is_reported_in_order(dataset):
    said = []
    fit(dataset, report=said.append)
    phases = [entry["phase"] for entry in said]
    assert phases[:2] == ["splitting", "fitting"]
    assert phases[-1] == "refitting"
    numbers = [entry["candidate"] for entry in said if "candidate" in entry]
    assert numbers == sorted(numbers)
    assert numbers[-1] <= said[2]["candidates"]


def test_parameters_are_counted_as_in_the_mission():
    """ResNet-50 with 37 classes trains 75,813 of 23,583,845."""
    head = LinearHead(
        kind="multiclass",
        labels=tuple(f"class {number}" for number in range(37)),
        weight=np.zeros((37, 2048), dtype=np.float32),
        bias=np.zeros(37, dtype=np.float32),
    )
    assert head.parameters == 75_813
    assert head.parameters + 23_508_032 == 23_583_845
    result = fit(few())
    assert (result.trainable_parameters, result.total_parameters) == (650, BACKBONE + 650)
    assert result.decision["parameters"] == {
        "trainable": 650,
        "total": BACKBONE + 650,
        "by_name": {"head.weight": 640, "head.bias": 10},
    }


def test_metrics_are_those_of_the_recorded_answers():
    dataset = digits(300)
    result = fit(dataset)
    rows = [dataset.ids.index(id_) for id_ in result.evaluated_ids]
    expected = evaluate("multiclass", dataset.labels, dataset.targets[rows], result.evaluated_scores)
    assert result.metrics == expected


def grown(dataset, count):
    """The first `count` examples, and then all of them, in the splits of the first fit."""
    rows = np.arange(count)
    fewer = replace(
        dataset,
        ids=dataset.ids[:count],
        embeddings=dataset.embeddings[rows],
        targets=dataset.targets[rows],
        groups=dataset.groups[:count],
        hashes=dataset.hashes[rows],
        splits=dataset.splits[:count],
        split_by_user=dataset.split_by_user[:count],
    )
    first = fit(fewer)
    given = first.splits or (None,) * count
    return first, replace(dataset, splits=given + (None,) * (len(dataset) - count))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "dataset",
    [digits(400), digits(120), digit_properties(300), ink(200)],
    ids=["multiclass", "few", "multilabel", "regression"],
)
def test_a_refit_ends_at_the_same_optimum_wherever_it_starts(dataset, seed):
    """Ten examples more: from the old head, from nothing, or from any other."""
    first, more = grown(dataset, len(dataset) - 10)
    cold = fit(more)
    spread = more.targets.std() if more.kind == "regression" else 1
    rng = np.random.default_rng(seed)
    wild = replace(first.head, weight=rng.normal(0, 0.5, first.head.weight.shape).astype(np.float32))
    for start in (first.head, wild):
        warm = fit(more, start=start)
        served, expected = (each.head.predict(more.embeddings) / spread for each in (warm, cold))
        assert np.abs(served - expected).max() <= 1e-4
        assert warm.evaluated_scores.tobytes() == cold.evaluated_scores.tobytes()
        assert warm.decision["start"] == ("nothing" if more.kind == "regression" else "previous head")


def test_a_head_that_doesnt_fit_is_no_start():
    dataset = digits(200)
    head = fit(dataset).head
    for other in (
        replace(head, kind="multilabel"),
        replace(head, labels=head.labels[::-1]),
        replace(head, weight=head.weight[:, :9]),
        replace(head, weight=head.weight * np.nan),
    ):
        result = fit(dataset, start=other)
        assert result.decision["start"] == "nothing"
        assert result.head.weight.tobytes() == head.weight.tobytes()


def test_a_class_that_the_old_head_had_not_seen_is_learned():
    dataset = digits(400)
    seen = np.flatnonzero(dataset.targets < 9)
    started, _ = fit_one(dataset, seen, 0.1)
    warm = fit(dataset, start=started.head(dataset.labels))
    served, expected = (each.head.predict(dataset.embeddings) for each in (warm, fit(dataset)))
    assert np.abs(served - expected).max() <= 1e-4


@st.composite
def odd_datasets(draw):
    """Tiny, degenerate, grouped and split at random."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count, classes = draw(st.integers(2, 40)), draw(st.integers(1, 4))
    kind = draw(st.sampled_from(["multiclass", "multilabel", "regression"]))
    embeddings = rng.normal(size=(count, draw(st.sampled_from([1, 5, 50]))))
    if draw(st.booleans()):
        embeddings[:] = embeddings[rng.integers(0, draw(st.sampled_from([1, 2])), count)]
    targets = {
        "multiclass": rng.integers(0, classes, count),
        "multilabel": rng.random((count, classes)) < draw(st.sampled_from([0.1, 0.5, 0.9])),
        "regression": rng.normal(size=count) * draw(st.sampled_from([1e-6, 1, 1e6])),
    }[kind]
    split = st.sampled_from(draw(st.sampled_from([[None], [None, *SPLITS], ["train", "test"], ["train"]])))
    group = st.sampled_from([None, "a", "b", "c"])
    return make_dataset(
        kind,
        () if kind == "regression" else tuple("abcd"[:classes]),
        embeddings,
        targets,
        splits=tuple(draw(st.lists(split, min_size=count, max_size=count))),
        groups=tuple(draw(st.lists(group, min_size=count, max_size=count))),
        hashes=rng.integers(0, 3, count, dtype=np.uint64),
    )


@settings(max_examples=60, deadline=None)
@given(odd_datasets())
def test_any_data_is_learned_from_or_refused(dataset):
    """Never a crash, a warning or a number that is none."""
    try:
        result = fit(dataset)
    except UntrainableData:
        return
    json.dumps([result.metrics, result.decision, result.history], allow_nan=False)
    assert np.isfinite(result.head.predict(dataset.embeddings)).all()
    assert np.isfinite(result.evaluated_scores).all()


@pytest.mark.parametrize(
    ("dataset", "said"),
    [
        (digits(60, classes=1), "needs two"),
        (digits(4), "has 0"),
        (ink(3), "needs 4"),
        (make_dataset("regression", (), DIGITS.data[:9], np.full(9, 2.5)), "same value"),
    ],
    ids=["one-class", "class-without-examples", "three-values", "constant"],
)
def test_what_cant_be_learned_is_refused(dataset, said):
    with pytest.raises(UntrainableData, match=said):
        fit(dataset)


def test_the_least_number_of_examples_is_the_callers():
    with pytest.raises(UntrainableData, match="at least 9 labelled examples"):
        fit(few(), min_examples_per_class=9)
