"""How far a task's images are from what the backbone was pretrained on; from arrays alone, without torch.

Two measures, each with a threshold of its own, calibrated in docs/adaptation.md: how unsure the pretraining
classifier is, where the weights have one, and else how far the variances of batch norms have moved
(`models.batch_norms`, which needs the images). Where there is neither, nothing is claimed.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from models.arrays import FloatArray, IntArray

FILE = "classifier.npz"  # beside backbone.onnx
MOST_IMAGES = 80  # that are looked at: the mean's standard error is then below 0.03
FEWEST_IMAGES = 10  # below which nothing is claimed: the standard error may be 0.08
ENTROPY_THRESHOLD = 0.6  # 0-1; at or above it, a domain is distant
BATCH_NORM_THRESHOLD = 0.78  # a mean |ln(variance / running variance)|; the same

CALIBRATED = frozenset({"efficientnet_lite0"})  # backbones whose classifiers the first threshold is known for

Kind = Literal["similar", "distant"]
Measure = Literal["given", "classifier_entropy", "batch_norm_distance", "none"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Classifier:
    """The linear map from embeddings to the classes of the pretraining data."""

    weight: FloatArray  # (K, D)
    bias: FloatArray  # (K,)

    @classmethod
    def none(cls, embedding_dim: int) -> "Classifier":
        """One without classes, which stands for none in a cache."""
        return cls(weight=np.zeros((0, embedding_dim), np.float32), bias=np.zeros(0, np.float32))

    def write(self, path: Path) -> None:
        np.savez(path, weight=self.weight, bias=self.bias)


def read_classifier(backbone_file: Path) -> Classifier | None:
    """That of a prepared backbone, None where its weights have none. Args: its backbone.onnx in the cache."""
    with np.load(backbone_file.with_name(FILE), allow_pickle=False) as said:
        return Classifier(weight=said["weight"], bias=said["bias"]) if len(said["weight"]) else None


def calibrated_classifier(backbone_file: Path, name: str) -> Classifier | None:
    """None where there is none, or where its doubts mean nothing known.

    How sure a classifier is depends on how it was trained: on efficientnet_lite1, near and far overlap.

    Args: name: of the backbone.
    """
    return read_classifier(backbone_file) if name in CALIBRATED else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """How far a task's images are from the pretraining data, and how that is known."""

    domain: Kind
    measure: Measure
    value: float | None  # in the measure's unit; None where nothing was measured
    threshold: float | None  # at or above it, a domain is distant
    images: int  # that were measured
    given: bool  # the user said so, and nothing was measured
    because: str  # in a sentence


def given_domain(domain: Kind) -> Domain:
    return Domain(
        domain=domain, measure="given", value=None, threshold=None, images=0, given=True,
        because=f"the request says that the domain is {domain}",
    )  # fmt: skip


def unknown_domain(reason: str, images: int = 0) -> Domain:
    """Treated as similar: that is the cheaper mistake, since validation still decides how far to climb."""
    return Domain(
        domain="similar", measure="none", value=None, threshold=None, images=images, given=False,
        because=f"unknown, treated as similar: {reason}",
    )  # fmt: skip


def domain_of_embeddings(embeddings: FloatArray, classifier: Classifier | None) -> Domain:
    """By the pretraining classifier's entropy. Args: embeddings: (N, D) of images that no test holds."""
    if classifier is None:
        return unknown_domain("the backbone has no pretraining classifier to ask", len(embeddings))
    if len(embeddings) < FEWEST_IMAGES:
        return unknown_domain(_too_few(len(embeddings)), len(embeddings))
    value = float(normalised_entropy(embeddings, classifier).mean())
    if not math.isfinite(value):
        return unknown_domain("the pretraining classifier's answers aren't finite", len(embeddings))
    return _measured("classifier_entropy", value, ENTROPY_THRESHOLD, len(embeddings))


def domain_of_batch_norms(distance: float | None, images: int) -> Domain:
    """By what `models.batch_norms.batch_norm_distance` gave for so many images that no test holds."""
    if distance is None:
        return unknown_domain("the backbone has neither a pretraining classifier nor batch norms", images)
    if images < FEWEST_IMAGES:
        return unknown_domain(_too_few(images), images)
    if not math.isfinite(distance):
        return unknown_domain("the batch norms' statistics aren't finite", images)
    return _measured("batch_norm_distance", distance, BATCH_NORM_THRESHOLD, images)


def normalised_entropy(embeddings: FloatArray, classifier: Classifier) -> FloatArray:
    """Of the classifier's softmax: (N, D) -> (N,), 0 where it is sure, 1 where all classes are alike."""
    logits = embeddings @ classifier.weight.T + classifier.bias  # (N, D) @ (D, K) + (K,) -> (N, K)
    logits -= logits.max(axis=1, keepdims=True)
    log_share = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    entropy = -(np.exp(log_share) * log_share).sum(axis=1) / math.log(len(classifier.bias))
    result: FloatArray = entropy.astype(np.float32)
    return result


def choose_rows(rows: int, seed: int, most: int = MOST_IMAGES) -> IntArray:
    """Which rows are looked at where there are more than `most`; ascending, the same for the same seed."""
    chosen = np.random.default_rng(seed).choice(rows, min(rows, most), replace=False)
    return np.sort(chosen).astype(np.int64)


def _measured(measure: Measure, value: float, threshold: float, images: int) -> Domain:
    domain: Kind = "distant" if value >= threshold else "similar"
    what = {
        "classifier_entropy": "the pretraining classifier's entropy, from 0, sure, to 1, at a loss",
        "batch_norm_distance": "the batch norms' distance, |ln| of variance over the remembered one",
    }[measure]
    side = "at or above" if domain == "distant" else "below"
    return Domain(
        domain=domain, measure=measure, value=value, threshold=threshold, images=images, given=False,
        because=f"{what}, is {value:.3f} over {images} images, {side} {threshold:g}",
    )  # fmt: skip


def _too_few(images: int) -> str:
    return f"{images} images are there to measure, and {FEWEST_IMAGES} are needed"
