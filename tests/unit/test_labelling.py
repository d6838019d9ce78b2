"""What a request says of an image."""

import pytest

from service.errors import InvalidField, UnknownLabel
from service.labelling import check_fits, split_of_form, target_of_body, target_of_form
from service.schemas.examples import Labelling
from service.store.records import Task


@pytest.mark.parametrize(
    ("kind", "said", "target"),
    [
        ("multiclass", [], (None, None)),
        ("multiclass", ["red"], (("red",), None)),
        ("multilabel", ["a", "b"], (("a", "b"), None)),
        ("regression", ["1e3"], (None, 1000.0)),
        ("regression", ["-2"], (None, -2.0)),
    ],
)
def test_a_form_says_labels_or_one_number(kind, said, target):
    assert target_of_form(kind, said) == target


@pytest.mark.parametrize("said", [["much"], [""], ["1", "2"], ["1,5"]])
def test_a_form_that_says_no_number_is_refused(said):
    with pytest.raises(InvalidField):
        target_of_form("regression", said)


@pytest.mark.parametrize(
    ("said", "target"),
    [
        ({}, (None, None)),
        ({"label": "a"}, (("a",), None)),
        ({"labels": []}, ((), None)),
        ({"labels": ["a", "b"], "label": None}, (("a", "b"), None)),
        ({"value": 0}, (None, 0.0)),
    ],
)
def test_a_body_says_one_of_three(said, target):
    assert target_of_body(Labelling(**said)) == target


def test_a_body_that_says_two_is_refused():
    with pytest.raises(InvalidField, match="label and value"):
        target_of_body(Labelling(label="a", value=1.0))


@pytest.mark.parametrize(("said", "split"), [(None, None), ("train", "train"), ("test", "test")])
def test_a_split_is_one_of_three(said, split):
    assert split_of_form(said) == split


def test_another_split_is_refused():
    with pytest.raises(InvalidField, match="holdout"):
        split_of_form("holdout")


def task(**fields):
    known = {
        "id": "task_1", "tenant": "t", "name": "x", "kind": "multiclass", "classes": ("a",), "closed": True,
        "description": "", "data_revision": 0, "revision": 1, "created_at": 0.0, "updated_at": 0.0,
    }  # fmt: skip
    return Task(**known | fields)


def test_only_closed_classes_are_closed():
    check_fits(task(), ("a",), None)
    check_fits(task(closed=False), ("b",), None)
    with pytest.raises(UnknownLabel):
        check_fits(task(), ("b",), None)
