import subprocess
import sys

import pytest

from models.errors import UntrainableData
from models.trainable import check_trainable


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


def test_the_http_process_can_ask_without_the_numerical_libraries():
    heavy = "{'numpy', 'scipy', 'sklearn', 'torch'}"
    code = f"import sys, models.trainable, models.strategies; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
