"""What goes to the trainer's child and comes back: values, and the names of the functions that take them.

The functions are in `fitting` and the modules that `Work` names, which only the child imports: the trainer
itself stays small.
"""

import importlib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from models.arrays import FloatArray
from models.dataset import Dataset, SplitName, Targets
from models.domain import Domain
from models.errors import PolyheadError
from models.head import Kind, LinearHead
from models.identity import AS_IT_IS, EMBEDDING, BackboneConfig, BackboneIdentity
from service.trainer.child import Report

if TYPE_CHECKING:  # it brings what only the child needs
    from models.strategies.head import FitResult

Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Work(Generic[Job, Result]):
    """A function of one of those modules, imported where it is called."""

    name: str
    module: str = "fitting"

    def __call__(self, job: Job, report: Report) -> Result:
        result: Result = getattr(importlib.import_module(f"service.trainer.{self.module}"), self.name)(
            job, report
        )
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
    start: tuple[int, bytes] | None = None  # an earlier version and its head.onnx, to begin at


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
    network: bytes | None = None  # ONNX from feature map, or pixels, to the answers; without metadata yet
    parity: dict[str, float] = field(default_factory=dict)  # of that file, with what torch answers
    factors: bytes | None = None  # of strategy lora: safetensors


def fitted_of(result: "FitResult", **own: Any) -> Fitted:
    """Args: own: the fields that a result doesn't have."""
    same = {field.name for field in fields(result)} & Fitted.__dataclass_fields__.keys()
    return Fitted(**{name: getattr(result, name) for name in same}, **own)


@dataclass(frozen=True, slots=True, kw_only=True)
class FillJob:
    """Images for the scratch, as feature maps or as pixels."""

    backbone: BackboneJob
    images: tuple[bytes, ...]  # as uploaded
    max_pixels: int
    input_size: int  # pixels, that they are decoded to
    stage: str | None  # of the backbone, whose output is kept; None: the pixels are
    views: tuple[str, ...]  # of each image, where its maps are kept
    shape: tuple[int, ...]  # of a row
    start: int  # row of the first image; 0 makes the scratch anew
    total: int  # rows
    folder: Path  # of the scratch


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkJob:
    backbone: BackboneJob
    input_size: int  # pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedFitJob:
    """Of the images that lie in the scratch, row by row."""

    backbone: BackboneJob
    strategy: str
    dataset: Dataset
    options: dict[str, Any]
    total_backbone_parameters: int
    min_examples_per_class: int
    spread: float  # as in ExportJob
    input_size: int  # pixels
    views: tuple[str, ...]  # of a tail: what it trains on; of a network: what its answers are averaged over
    recomputed: bool  # the scratch holds the pixels of a tail's images, not the maps
    output: str = EMBEDDING  # of the backbone that is trained on, or PIXELS
    few_validation: int = 0  # examples, below which validation goes in folds


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadRungJob:
    """The head as a rung of strategy auto."""

    dataset: Dataset
    seed: int
    total_backbone_parameters: int
    min_examples_per_class: int
    few_validation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainJob:
    backbone: BackboneJob
    images: tuple[bytes, ...]  # as uploaded; none of a test
    max_pixels: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Explored:
    """What a rung answered to validation; what was trained stays in the child."""

    ids: tuple[str, ...]  # of the validation examples
    targets: Targets  # theirs
    scores: FloatArray  # (m, C)
    seconds: float  # that trying it took
    refit_seconds: float  # that finishing it takes, about
    record: dict[str, Any]  # for the decision: score, interval, parameters, epochs


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """What a version is fed for an answer."""

    output: str = EMBEDDING  # of the backbone, or PIXELS
    views: tuple[str, ...] = (AS_IT_IS,)  # whose mean logits are the answer
    input_size: int | None = None  # pixels, of a network of its own


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
    network: bytes | None = None  # as in Fitted
    feed: Feed = field(default_factory=Feed)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class WeighJob:
    """The answers of two versions, on two backbones, to the same examples."""

    kind: Kind
    labels: tuple[str, ...]  # the task's classes now
    targets: Targets  # as in Dataset, by those labels
    old_labels: tuple[str, ...]
    old_scores: FloatArray  # (N, C')
    new_labels: tuple[str, ...]
    new_scores: FloatArray  # (N, C'')


@dataclass(frozen=True, slots=True, kw_only=True)
class WeighedScore:
    value: float | None  # None: undefined on these examples
    interval: tuple[float, float] | None  # 95 %


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighed:
    metric: str
    higher_is_better: bool
    count: int  # examples
    old: WeighedScore
    new: WeighedScore
    spread: float = 1.0  # what a difference is measured by: 1, or the deviation of a regression's targets


PREPARE: Work[BackboneJob, None] = Work("prepare")
WARM: Work[BackboneJob, None] = Work("warm")
IDENTIFY: Work[BackboneJob, BackboneIdentity] = Work("identify")
EMBED: Work[EmbedJob, list[Embedded | PolyheadError]] = Work("embed")
FIT: Work[FitJob, Fitted] = Work("fit")
FILL: Work[FillJob, list[PolyheadError | None]] = Work("fill", "scratch")
FIT_TAIL: Work[TunedFitJob, Fitted] = Work("fit_tail", "tuning")
CHECK_NETWORK: Work[NetworkJob, None] = Work("check_network", "networks")
FIT_NETWORK: Work[TunedFitJob, Fitted] = Work("fit_network", "networks")
MEASURE_DOMAIN: Work[DomainJob, Domain] = Work("measure_domain", "rungs")
TRY_HEAD: Work[HeadRungJob, Explored] = Work("try_head", "rungs")
TRY_RUNG: Work[TunedFitJob, Explored] = Work("try_rung", "rungs")
FINISH_RUNG: Work[str, Fitted] = Work("finish_rung", "rungs")
DROP_RUNG: Work[str, None] = Work("drop_rung", "rungs")
EXPORT: Work[ExportJob, Exported] = Work("export")
JUDGE: Work[JudgeJob, Judged] = Work("judge")
WEIGH: Work[WeighJob, Weighed] = Work("weigh", "weighing")
