from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.dataset import SPLITS
from models.splits import assign_folds, assign_splits, split_digest
from tests.unit.datasets import digit_properties, digits, ink, make_dataset, unlike


def assigned(dataset, seed=0):
    return assign_splits(dataset, np.random.default_rng(seed))


def shares(splits):
    return [splits.count(name) / len(splits) for name in SPLITS]


def test_classes_are_split_60_20_20_each():
    dataset = digits(400)
    splits = np.array(assigned(dataset).splits)
    assert shares(splits.tolist()) == pytest.approx([0.6, 0.2, 0.2], abs=0.02)
    for number in range(10):
        members = splits[dataset.targets == number].tolist()
        assert shares(members) == pytest.approx([0.6, 0.2, 0.2], abs=1.2 / len(members))


def test_labels_of_a_multilabel_task_are_split_60_20_20_each():
    dataset = digit_properties(400)
    splits = np.array(assigned(dataset).splits)
    for column in range(3):
        assert shares(splits[dataset.targets[:, column]].tolist()) == pytest.approx([0.6, 0.2, 0.2], abs=0.02)


def test_the_parts_of_a_regression_are_alike():
    dataset = ink(200)
    splits = np.array(assigned(dataset).splits)
    means = [dataset.targets[splits == name].mean() for name in SPLITS]
    assert np.ptp(means) < 0.2 * dataset.targets.std()


def test_a_class_with_four_examples_is_in_each_split():
    labels = ("many", "few")
    targets = np.array([0] * 46 + [1] * 4)
    dataset = make_dataset("multiclass", labels, np.random.default_rng(0).normal(size=(50, 8)), targets)
    splits = np.array(assigned(dataset).splits)
    assert set(splits[targets == 1]) == set(SPLITS)


def test_the_seed_decides():
    dataset = digits(100)
    assert assigned(dataset, 1).splits == assigned(dataset, 1).splits != assigned(dataset, 2).splits


def test_an_assigned_example_stays_where_it_is():
    first = digits(100)
    splits = assigned(first).splits
    second = digits(160, splits=splits + (None,) * 60)
    later = assigned(second, seed=9)
    assert later.splits[:100] == splits
    assert shares(later.splits) == pytest.approx([0.6, 0.2, 0.2], abs=0.03)


def test_what_the_user_gave_counts_towards_the_shares():
    dataset = digits(100, splits=("test",) * 20 + (None,) * 80, split_by_user=(True,) * 20 + (False,) * 80)
    splits = assigned(dataset).splits
    assert splits[:20] == ("test",) * 20
    assert 20 <= splits.count("test") <= 23


def test_groups_stay_on_one_side():
    groups = tuple(f"source {row % 23}" for row in range(400))
    result = assigned(digits(400, groups=groups))
    sides = {}
    for group, split in zip(groups, result.splits, strict=True):
        sides.setdefault(group, set()).add(split)
    assert all(len(splits) == 1 for splits in sides.values())
    assert shares(result.splits) == pytest.approx([0.6, 0.2, 0.2], abs=0.05)


def test_near_duplicates_stay_on_one_side():
    """Every scan is there twice, the second time a little brighter."""
    once = digits(200)
    twice = make_dataset(
        "multiclass",
        once.labels,
        np.concatenate([once.embeddings, once.embeddings * 1.1]),
        np.concatenate([once.targets, once.targets]),
        hashes=np.concatenate([unlike(200), unlike(200) ^ np.uint64(3)]),
    )
    splits = assigned(twice).splits
    assert splits[:200] == splits[200:]


def test_a_new_near_duplicate_follows_the_assigned_one():
    once = digits(60)
    splits = assigned(once).splits
    twice = make_dataset(
        "multiclass",
        once.labels,
        np.concatenate([once.embeddings, once.embeddings]),
        np.concatenate([once.targets, once.targets]),
        hashes=np.concatenate([once.hashes, once.hashes]),
        splits=splits + (None,) * 60,
    )
    assert assigned(twice).splits[60:] == splits


def test_the_users_split_wins_over_the_group_with_a_warning():
    splits = ("train", "test", None, *(None,) * 97)
    groups = ("a", "a", "a", *(None,) * 97)
    result = assigned(digits(100, groups=groups, splits=splits, split_by_user=(True, True) + (False,) * 98))
    assert result.splits[:2] == ("train", "test")
    assert any("several sides" in warning and "'a'" in warning for warning in result.warnings)


def test_a_group_of_everything_is_broken_up_with_a_warning():
    result = assigned(digits(50, groups=("all",) * 50))
    assert set(result.splits) == set(SPLITS)
    assert any("broken up" in warning and "'all'" in warning for warning in result.warnings)
    assert any("50 of 50" in warning for warning in result.warnings)


def test_one_group_a_class_still_leaves_every_class_in_train():
    dataset = digits(90, classes=3)
    dataset = replace(dataset, groups=tuple(f"room {number}" for number in dataset.targets))
    result = assigned(dataset)
    splits = np.array(result.splits)
    assert set(dataset.targets[splits == "train"]) == {0, 1, 2}
    assert set(splits) == set(SPLITS)
    assert any("broken up" in warning for warning in result.warnings)


def test_three_groups_fill_three_splits_unbroken():
    result = assigned(digits(90, groups=tuple(f"room {row // 30}" for row in range(90))))
    assert set(result.splits) == set(SPLITS)
    assert not any("broken up" in warning for warning in result.warnings)


def test_an_empty_split_that_the_user_left_is_said():
    result = assigned(digits(40, splits=("train",) * 30 + ("test",) * 10, split_by_user=(True,) * 40))
    assert result.splits == ("train",) * 30 + ("test",) * 10
    assert "the validation split is empty" in result.warnings


def test_the_digest_depends_on_the_split_and_not_on_the_order():
    pairs = [("ex_1", "train"), ("ex_2", "test")]
    assert split_digest(pairs) == split_digest(reversed(pairs))
    assert split_digest(pairs) != split_digest([("ex_1", "test"), ("ex_2", "train")])
    dataset = digits(60)
    result = assigned(dataset)
    assert result.digest == split_digest(zip(dataset.ids, result.splits, strict=True))


def test_folds_are_stratified_and_grouped():
    groups = tuple(f"object {row // 3}" for row in range(300))
    dataset = digits(300, groups=groups)
    folds = assign_folds(dataset, 5, np.random.default_rng(0)).numbers
    assert all(len(set(folds[row : row + 3])) == 1 for row in range(0, 300, 3))
    assert np.bincount(folds).tolist() == pytest.approx([60] * 5, abs=3)
    for number in range(10):
        counts = np.bincount(folds[dataset.targets == number], minlength=5)
        assert np.ptp(counts) <= 5


def test_two_examples_of_a_class_are_in_two_folds():
    targets = np.array([0] * 30 + [1] * 2)
    embeddings = np.random.default_rng(0).normal(size=(32, 8))
    dataset = make_dataset(
        "multiclass", ("many", "few"), embeddings, targets, groups=(None,) * 30 + ("g",) * 2
    )
    folds = assign_folds(dataset, 5, np.random.default_rng(0))
    assert folds.numbers[30] != folds.numbers[31]
    assert any("'g'" in warning for warning in folds.warnings)


@st.composite
def datasets(draw):
    count = draw(st.integers(3, 60))
    classes = draw(st.integers(2, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    names = [None, *(f"group {number}" for number in range(draw(st.integers(1, 12))))]
    given = draw(st.lists(st.sampled_from([None, None, None, *SPLITS]), min_size=count, max_size=count))
    return make_dataset(
        "multiclass",
        tuple(f"class {number}" for number in range(classes)),
        rng.normal(size=(count, 4)),
        rng.integers(0, classes, count),
        groups=tuple(names[number] for number in rng.integers(0, len(names), count)),
        splits=tuple(given),
        split_by_user=tuple(split is not None for split in given),
        hashes=unlike(max(1, count // 3), seed=3)[rng.integers(0, max(1, count // 3), count)],
    )


@settings(max_examples=150, deadline=None)
@given(datasets(), st.integers(0, 3))
def test_any_data_is_split_by_the_rules(dataset, seed):
    result = assigned(dataset, seed)
    assert len(result.splits) == len(dataset)
    for before, after in zip(dataset.splits, result.splits, strict=True):
        assert before in (None, after)  # sticky, and the user wins
    free = dataset.splits.count(None)
    for name in SPLITS:
        assert name in result.splits or free < 3 or name in dataset.splits
    for number in np.unique(result.groups):
        members = np.flatnonzero(result.groups == number)
        if len({dataset.splits[row] for row in members} - {None}) < 2:
            assert len({result.splits[row] for row in members}) == 1
    _groups_are_whole_or_the_warnings_say_so(dataset, result)
    if dataset.splits.count(None) == len(dataset) and len(dataset) >= 20:
        trained = set(dataset.targets[np.array(result.splits) == "train"])
        assert trained == set(dataset.targets)


def _groups_are_whole_or_the_warnings_say_so(dataset, result):
    sides = {}
    for group, split in zip(dataset.groups, result.splits, strict=True):
        if group is not None:
            sides.setdefault(group, set()).add(split)
    if any(len(splits) > 1 for splits in sides.values()):
        assert any("broken up" in said or "several sides" in said for said in result.warnings)
