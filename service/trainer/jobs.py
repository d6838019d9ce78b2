"""What goes to the trainer's child and comes back: values, and the names of the functions that take them.

The functions are in `fitting`, which only the child imports: the trainer itself stays small.
"""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from models.arrays import FloatArray
from models.dataset import Dataset, SplitName, Targets
from models.errors import PolyheadError
from models.head import Kind, LinearHead
from models.identity import BackboneConfig, BackboneIdentity
from service.trainer.child import Report

Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Work(Generic[Job, Result]):
    """A function of `fitting`, imported where it is called."""

    name: str

    def __call__(self, job: Job, report: Report) -> Result:
        result: Result = getattr(importlib.import_module("service.trainer.fitting"), self.name)(job, report)
        return result


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneJob:
    config: BackboneConfig
    cache_dir: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedJob:
    backbone: BackboneJob
    images: tuple[bytes, ...]  # as uploaded
    max_pixels: int  # of one image


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """All that an example's row needs to know of its image."""

    digest: str  # sha256 of the bytes, hex
    media_type: str
    width: int  # pixels, upright
    height: int
    perceptual_hash: int  # 64 bits
    embedding: bytes  # (D,) float32 little-endian


@dataclass(frozen=True, slots=True, kw_only=True)
class FitJob:
    dataset: Dataset
    options: dict[str, Any]  # of the strategy
    total_backbone_parameters: int
    min_examples_per_class: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A fitted head, how it was evaluated, and what it answered there."""

    head: LinearHead
    splits: tuple[SplitName, ...] | None  # of each example, where the evaluation needed them
    split_digest: str
    evaluation: str  # "test" or "out_of_fold"
    fitted_on: str
    metrics: dict[str, Any]
    history: list[dict[str, Any]]
    decision: dict[str, Any]
    evaluated_ids: tuple[str, ...]
    evaluated_scores: FloatArray  # (M, C)
    trainable_parameters: int
    total_parameters: int
    threshold: float | None
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportJob:
    backbone: BackboneJob
    head: LinearHead
    task: str
    version: int
    embeddings: FloatArray  # (N, D): what the file must answer alike on
    images: tuple[bytes, ...]  # a few real ones, for the file that begins at the pixels
    max_pixels: int
    spread: float  # what a difference is measured by: 1, or the deviation of a regression's targets


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    head: bytes  # head.onnx
    parity: dict[str, float]  # greatest difference of each file's answers from those that are served


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeJob:
    """Two versions' answers to the same examples."""

    kind: Kind
    targets: Targets  # (N,), or (N, C) where multilabel
    labels: tuple[str, ...]
    scores: FloatArray  # (N, C)
    old_labels: tuple[str, ...]
    old_scores: FloatArray  # (N, C')


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    metric: str
    new: float | None  # None: undefined on these examples
    old: float | None
    better: bool  # the new one, strictly
    count: int  # examples


WARM: Work[BackboneJob, None] = Work("warm")
IDENTIFY: Work[BackboneJob, BackboneIdentity] = Work("identify")
EMBED: Work[EmbedJob, list[Embedded | PolyheadError]] = Work("embed")
FIT: Work[FitJob, Fitted] = Work("fit")
EXPORT: Work[ExportJob, Exported] = Work("export")
JUDGE: Work[JudgeJob, Judged] = Work("judge")
