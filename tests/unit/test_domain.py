"""How far a domain is: from what a classifier says, from batch norms, or unknown."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from models.batch_norms import batch_norm_distance
from models.domain import (
    BATCH_NORM_THRESHOLD,
    ENTROPY_THRESHOLD,
    FEWEST_IMAGES,
    FILE,
    Classifier,
    calibrated_classifier,
    choose_rows,
    domain_of_batch_norms,
    domain_of_embeddings,
    given_domain,
    normalised_entropy,
)
from models.graph import embed
from tests.networks import tiny

CLASSES = 200
SURE = Classifier(weight=np.eye(CLASSES, dtype=np.float32) * 50, bias=np.zeros(CLASSES, np.float32))


def one_hot(images):
    return np.eye(CLASSES, dtype=np.float32)[:images]


def test_entropy_is_none_where_the_classifier_is_sure_and_full_where_it_is_not():
    assert normalised_entropy(one_hot(3), SURE) == pytest.approx(0, abs=1e-4)
    assert normalised_entropy(np.zeros((3, CLASSES), np.float32), SURE) == pytest.approx(1)


def test_entropy_bears_large_logits():
    huge = replace(SURE, weight=SURE.weight * 1e4)
    assert normalised_entropy(one_hot(2), huge) == pytest.approx(0, abs=1e-4)


def test_a_bias_counts():
    """Half of the classes ruled out, the others alike: log(K/2) / log(K)."""
    bias = np.where(np.arange(CLASSES) < CLASSES // 2, 0, -100).astype(np.float32)
    entropy = normalised_entropy(np.zeros((1, CLASSES), np.float32), replace(SURE, bias=bias))
    assert entropy == pytest.approx(np.log(CLASSES / 2) / np.log(CLASSES), rel=1e-5)


def test_images_that_the_classifier_knows_are_similar():
    domain = domain_of_embeddings(one_hot(20), SURE)
    assert (domain.domain, domain.measure, domain.images) == ("similar", "classifier_entropy", 20)
    assert domain.value < domain.threshold == ENTROPY_THRESHOLD
    assert "over 20 images, below 0.6" in domain.because


def test_images_that_it_does_not_know_are_distant():
    domain = domain_of_embeddings(np.zeros((20, CLASSES), np.float32), SURE)
    assert (domain.domain, domain.given) == ("distant", False)
    assert "at or above 0.6" in domain.because


def test_too_few_images_claim_nothing():
    domain = domain_of_embeddings(one_hot(FEWEST_IMAGES - 1), SURE)
    assert (domain.domain, domain.measure, domain.value) == ("similar", "none", None)
    assert domain.because == "unknown, treated as similar: 9 images are there to measure, and 10 are needed"
    assert domain_of_embeddings(one_hot(FEWEST_IMAGES), SURE).measure == "classifier_entropy"
    assert domain_of_batch_norms(1.0, FEWEST_IMAGES - 1).measure == "none"


def test_no_classifier_claims_nothing():
    domain = domain_of_embeddings(one_hot(20), None)
    assert (domain.domain, domain.measure) == ("similar", "none")
    assert "no pretraining classifier" in domain.because


def test_embeddings_that_are_not_finite_claim_nothing():
    assert domain_of_embeddings(np.full((20, CLASSES), np.nan, np.float32), SURE).measure == "none"
    assert domain_of_batch_norms(float("nan"), 20).measure == "none"


def test_what_the_user_says_is_not_measured():
    domain = given_domain("distant")
    assert (domain.domain, domain.measure, domain.value, domain.given) == ("distant", "given", None, True)


def test_the_rows_looked_at_are_a_seeded_choice():
    assert list(choose_rows(5, seed=0)) == [0, 1, 2, 3, 4]
    chosen = choose_rows(1000, seed=0)
    assert len(set(chosen)) == 80
    assert list(chosen) == sorted(choose_rows(1000, seed=0))
    assert set(chosen) != set(choose_rows(1000, seed=1))


@pytest.fixture
def normed():
    """`tiny` with a batch norm whose statistics are those of `pixels(128)`, as far as training got them."""
    backbone = tiny()
    norm = nn.BatchNorm2d(8, momentum=None)
    backbone.module.stem.insert(1, norm)
    backbone.module.train()
    embed(backbone, pixels(128))
    backbone.module.eval()
    return backbone


def pixels(level, images=24, noise=40):
    values = np.random.default_rng(0).normal(level, noise, (images, 32, 32, 3))
    return values.clip(0, 255).astype(np.uint8)


def test_batch_norms_know_the_images_they_saw(normed):
    assert batch_norm_distance(normed, pixels(128)) == pytest.approx(0, abs=1e-2)


def test_images_of_another_kind_are_far_from_them(normed):
    distance = batch_norm_distance(normed, pixels(128, noise=4))
    assert distance > BATCH_NORM_THRESHOLD
    assert domain_of_batch_norms(distance, 24).domain == "distant"
    assert domain_of_batch_norms(0.0, 24).domain == "similar"


def test_the_distance_is_of_the_variances(normed):
    normed.module.stem[1].running_var *= np.e
    assert batch_norm_distance(normed, pixels(128)) == pytest.approx(1, abs=1e-2)


def test_images_that_are_all_one_plain_colour_are_far_and_finite(normed):
    distance = batch_norm_distance(normed, np.full((20, 32, 32, 3), 90, np.uint8))
    assert BATCH_NORM_THRESHOLD < distance < np.inf


def test_the_distance_does_not_hang_on_batches(normed):
    """Three batches, the last one short, of images that differ from batch to batch."""
    images = np.concatenate([pixels(60, images=16), pixels(128, images=16), pixels(200, images=3)])
    turned = images[np.random.default_rng(0).permutation(35)]
    assert batch_norm_distance(normed, images) == pytest.approx(batch_norm_distance(normed, turned), rel=1e-4)


def test_measuring_changes_no_statistic(normed):
    before = {name: tensor.clone() for name, tensor in normed.module.state_dict().items()}
    batch_norm_distance(normed, pixels(10))
    assert all(torch.equal(tensor, before[name]) for name, tensor in normed.module.state_dict().items())
    assert not normed.module.stem[1]._forward_pre_hooks


def test_a_network_without_batch_norms_has_no_distance():
    assert batch_norm_distance(tiny(), pixels(10)) is None
    domain = domain_of_batch_norms(None, 24)
    assert (domain.domain, domain.measure) == ("similar", "none")
    assert "neither a pretraining classifier nor batch norms" in domain.because


def test_the_doubts_of_a_classifier_that_nobody_calibrated_say_nothing(tmp_path):
    SURE.write(tmp_path / FILE)
    backbone_file = tmp_path / "backbone.onnx"
    assert calibrated_classifier(backbone_file, "efficientnet_lite0") is not None
    assert calibrated_classifier(backbone_file, "efficientnet_lite1") is None
