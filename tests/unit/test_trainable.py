import subprocess
import sys

import pytest

from models.errors import UntrainableData
from models.trainable import check_trainable, evaluation_rule


@pytest.mark.parametrize(
    ("kind", "per_class", "labelled"),
    [
        ("multiclass", {"a": 2, "b": 2}, 4),
        ("multilabel", {"a": 2}, 4),
        ("multilabel", {"a": 3, "b": 2}, 5),
        ("regression", {}, 4),
    ],
)
def test_enough_examples_pass(kind, per_class, labelled):
    check_trainable(kind, per_class, labelled, 2)


@pytest.mark.parametrize(
    ("kind", "per_class", "labelled", "said"),
    [
        ("multiclass", {}, 0, "no labelled examples"),
        ("multiclass", {"a": 9}, 9, "has 1 class and needs two"),
        ("multiclass", {"a": 9, "sofa": 1, "chair": 0}, 10, "'sofa' has 1, 'chair' has 0"),
        ("multilabel", {}, 4, "no classes"),
        ("multilabel", {"a": 1, "b": 3}, 6, "'a' has 1"),
        ("multilabel", {"a": 5, "b": 3}, 6, "without that label: 'a' has 1"),
        ("regression", {}, 3, "has 3 examples with a value and needs 4"),
    ],
)
def test_too_few_examples_are_refused_by_name(kind, per_class, labelled, said):
    with pytest.raises(UntrainableData, match=said):
        check_trainable(kind, per_class, labelled, 2)


def test_a_long_list_of_small_classes_is_cut():
    with pytest.raises(UntrainableData, match="and 27 more classes"):
        check_trainable("multiclass", {f"class {number}": 1 for number in range(37)}, 37, 2)


@pytest.mark.parametrize(
    ("kind", "per_class", "labelled", "splits", "expected"),
    [
        ("multiclass", {"a": 90, "b": 20}, 110, {None}, "test"),
        ("multiclass", {"a": 90, "b": 19}, 109, {None}, "out_of_fold"),
        ("multiclass", {"a": 90, "b": 2}, 92, {None, "train", "test"}, "test"),
        ("multiclass", {"a": 90, "b": 90}, 180, {"train", "validation"}, "out_of_fold"),
        ("multilabel", {"a": 20}, 99, {None, "train"}, "test"),
        ("regression", {}, 100, {None}, "test"),
        ("regression", {}, 99, {None}, "out_of_fold"),
    ],
    ids=["enough", "small-class", "test-exists", "no-test-possible", "labels", "values", "few-values"],
)
def test_a_test_is_held_out_where_it_means_something(kind, per_class, labelled, splits, expected):
    mode, because = evaluation_rule(kind, per_class, labelled, splits)
    assert mode == expected
    assert because


def test_the_http_process_can_ask_without_the_numerical_libraries():
    heavy = "{'numpy', 'scipy', 'sklearn', 'torch'}"
    code = f"import sys, models.trainable, models.strategies; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
