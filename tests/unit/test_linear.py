"""The solvers against scikit-learn's, on the same standardised data."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from models.strategies.basis import fit_basis
from models.strategies.imbalance import weigh
from models.strategies.linear import fit_path
from tests.unit.datasets import digit_properties, digits, ink, standardised

EXACTLY = 1e-13
CASES = pytest.mark.parametrize("count", [40, 300], ids=["fewer-examples-than-features", "more"])


def head_of(dataset, strength, precision=np.float64, tolerance=EXACTLY):
    basis = fit_basis(dataset.embeddings, precision)
    weighting = weigh(dataset.kind, dataset.targets, len(dataset.labels))
    path = fit_path(
        dataset.kind, basis, dataset.targets, weighting, strengths=(10.0, strength), tolerance=tolerance
    )
    return list(path)[-1].head(dataset.labels), weighting


@CASES
@pytest.mark.parametrize("strength", [3.0, 0.1])
def test_the_multinomial_optimum_is_scikit_learns(count, strength):
    dataset = digits(count)
    head, weighting = head_of(dataset, strength)
    model = LogisticRegression(C=1 / strength, tol=1e-8, max_iter=10_000)
    model.fit(standardised(dataset.embeddings), dataset.targets, sample_weight=weighting.of(dataset.targets))
    expected = model.predict_proba(standardised(dataset.embeddings))
    assert head.predict(dataset.embeddings) == pytest.approx(expected, abs=1e-4)


def test_two_classes_have_scikit_learns_optimum():
    """It has one weight vector for two classes; two of half the size have half the penalty."""
    dataset = digits(100, classes=2)
    head, _ = head_of(dataset, 0.5)
    model = LogisticRegression(C=4, tol=1e-8, max_iter=10_000).fit(
        standardised(dataset.embeddings), dataset.targets
    )
    expected = model.predict_proba(standardised(dataset.embeddings))
    assert head.predict(dataset.embeddings) == pytest.approx(expected, abs=1e-4)


@CASES
def test_independent_logistic_optima_are_scikit_learns(count):
    dataset = digit_properties(count)
    head, weighting = head_of(dataset, 0.3)
    answered = head.predict(dataset.embeddings)
    for column in range(3):
        model = LogisticRegression(C=1 / 0.3, tol=1e-8, max_iter=10_000)
        weights = weighting.of(dataset.targets)[:, column]
        model.fit(standardised(dataset.embeddings), dataset.targets[:, column], sample_weight=weights)
        expected = model.predict_proba(standardised(dataset.embeddings))[:, 1]
        assert answered[:, column] == pytest.approx(expected, abs=1e-4)


@CASES
def test_ridge_is_scikit_learns(count):
    dataset = ink(count)
    head, _ = head_of(dataset, 0.3)
    features = standardised(dataset.embeddings)
    expected = Ridge(alpha=0.3).fit(features, dataset.targets).predict(features)
    spread = dataset.targets.std()
    assert head.predict(dataset.embeddings)[:, 0] / spread == pytest.approx(expected / spread, abs=1e-4)


def test_a_feature_that_hardly_varied_moves_no_answer_far():
    """It was 0 in all examples but one, and there next to 0; a new image has an ordinary value."""
    dataset = ink(200)
    rare = np.zeros((200, 1), dtype=np.float32)
    rare[np.argmax(dataset.targets)] = 1e-3
    widened = replace(dataset, embeddings=np.hstack([dataset.embeddings, rare]))
    head, _ = head_of(widened, 0.3)
    before = head.predict(widened.embeddings)[0, 0]
    widened.embeddings[0, -1] = 8  # scans have 0 to 16
    assert abs(head.predict(widened.embeddings)[0, 0] - before) < dataset.targets.std()


@pytest.mark.parametrize("dataset", [digits(200), digit_properties(200)], ids=["multiclass", "multilabel"])
def test_float32_is_as_good_as_float64(dataset):
    exact, _ = head_of(dataset, 0.1)
    narrow, _ = head_of(dataset, 0.1, precision=np.float32, tolerance=1e-8)
    difference = narrow.predict(dataset.embeddings) - exact.predict(dataset.embeddings)
    assert np.abs(difference).max() < 5e-3


@pytest.mark.parametrize("dataset", [digits(200), digit_properties(200)], ids=["multiclass", "multilabel"])
def test_a_head_folds_back_into_the_basis_that_it_came_from(dataset):
    head, _ = head_of(dataset, 0.3)
    basis = fit_basis(dataset.embeddings, np.float64)
    weight, bias = basis.unfold(*basis.fold(head.weight.astype(float), head.bias.astype(float)))
    assert weight == pytest.approx(head.weight, abs=1e-5)
    assert bias == pytest.approx(head.bias, abs=1e-4)


def test_classes_are_weighted_from_a_ratio_of_three_on():
    even = weigh("multiclass", np.array([0] * 30 + [1] * 10), 2)
    assert not even.applied
    assert even.of(np.array([0, 1])).tolist() == [1, 1]
    uneven = weigh("multiclass", np.array([0] * 90 + [1] * 10), 2)
    assert uneven.applied
    assert uneven.ratio == 9
    common, rare = uneven.of(np.array([0, 1]))
    assert rare / common == pytest.approx(3)  # half of the way, in the exponent
    assert 90 * common + 10 * rare == pytest.approx(100)


def test_classes_are_weighted_as_asked_for():
    targets = np.array([0] * 20 + [1] * 10)
    common, rare = weigh("multiclass", targets, 2, "balanced").of(np.array([0, 1]))
    assert rare / common == pytest.approx(2)
    assert 20 * common + 10 * rare == pytest.approx(30)
    assert not weigh("multiclass", np.array([0] * 90 + [1] * 10), 2, "none").applied
    labels = np.array([[True]] * 9 + [[False]])
    weights = weigh("multilabel", labels, 1, "balanced").of(labels)
    assert weights[0, 0] * 9 == pytest.approx(weights[9, 0])


def test_labels_are_weighted_one_by_one():
    targets = np.zeros((100, 2), dtype=np.bool_)
    targets[:4, 0] = targets[:50, 1] = True
    weights = weigh("multilabel", targets, 2).of(targets)
    assert weights[0, 0] / weights[99, 0] == pytest.approx(np.sqrt(96 / 4))
    assert (weights[:, 1] == 1).all()


def test_a_class_that_training_has_not_seen_is_never_answered():
    seen = digits(100, classes=3)
    basis = fit_basis(seen.embeddings, np.float64)
    weighting = weigh("multiclass", seen.targets, 5)
    (model,) = fit_path("multiclass", basis, seen.targets, weighting, strengths=(0.1,), tolerance=EXACTLY)
    answered = model.head(tuple("abcde")).predict(digits(300).embeddings)
    assert answered[:, 3:].max() < 1e-6


def test_a_label_that_is_always_there_is_always_answered():
    targets = np.stack([np.ones(50), np.zeros(50), np.arange(50) % 2], axis=1).astype(np.bool_)
    basis = fit_basis(digits(50).embeddings, np.float64)
    weighting = weigh("multilabel", targets, 3)
    (model,) = fit_path("multilabel", basis, targets, weighting, strengths=(0.1,), tolerance=1e-8)
    answered = model.head(("always", "never", "odd")).predict(digits(50).embeddings)
    assert answered[:, 0].min() > 0.999
    assert answered[:, 1].max() < 0.001


def test_identical_embeddings_give_the_classes_shares():
    """There is nothing to learn, and nothing to divide by."""
    embeddings = np.ones((30, 16), dtype=np.float32)
    targets = np.array([0] * 20 + [1] * 10)
    basis = fit_basis(embeddings, np.float64)
    weighting = weigh("multiclass", targets, 2)
    (model,) = fit_path("multiclass", basis, targets, weighting, strengths=(1.0,), tolerance=EXACTLY)
    assert model.head(("a", "b")).predict(embeddings)[0] == pytest.approx([2 / 3, 1 / 3], abs=1e-4)
