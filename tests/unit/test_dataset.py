import numpy as np
import pytest

from tests.unit.datasets import digit_properties, digits, ink


def test_fields_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="different lengths"):
        digits(10, groups=(None,) * 9)


def test_a_class_is_counted_even_without_examples():
    assert digits(6, classes=3).per_class == {"digit 0": 2, "digit 1": 2, "digit 2": 2}
    assert digits(2, classes=3).per_class == {"digit 0": 1, "digit 1": 1, "digit 2": 0}


def test_a_multilabel_example_counts_for_each_of_its_labels():
    dataset = digit_properties(10)  # the digits 0 to 9
    assert dataset.per_class == {"even": 5, "loop": 4, "high": 5}


def test_strata_of_a_regression_are_equally_full_bins_in_order():
    dataset = ink(200)
    assert dataset.strata.sum(axis=0).tolist() == [20] * 10
    assert (dataset.strata.sum(axis=1) == 1).all()
    bins = dataset.strata.argmax(axis=1)
    assert (np.diff(bins[np.argsort(dataset.targets, kind="stable")]) >= 0).all()


def test_few_values_have_one_stratum():
    assert ink(4).strata.shape == (4, 1)
