"""The values that cross the store's border: immutable, without SQL."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, Generic, Literal, TypeVar, get_args

from models.errors import PolyheadError
from models.identity import AS_IT_IS, EMBEDDING

Item = TypeVar("Item")

Kind = Literal["multiclass", "multilabel", "regression"]
SplitName = Literal["train", "validation", "test"]
RunKind = Literal["train", "import"]
RunState = Literal["queued", "running", "succeeded", "failed", "cancelled"]
PublishPolicy = Literal["first", "if_better", "always", "never"]
AddStatus = Literal["created", "duplicate", "conflict"]

ACTIVE_STATES: tuple[RunState, ...] = ("queued", "running")
TERMINAL_STATES: tuple[RunState, ...] = ("succeeded", "failed", "cancelled")
Scope = Literal["predict", "train", "admin", "metrics"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
DEFAULT_TENANT = "default"  # of keys that name none, and of everybody where keys are off
PRODUCTION = "production"  # the alias that predict uses


class Unset(Enum):
    """The type of UNSET: a field that a change leaves as it is, where None is a value."""

    UNSET = "unset"


UNSET: Final = Unset.UNSET


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[Item]):
    """One page of a list, newest first."""

    data: list[Item]
    next: str | None  # opaque cursor for `after`, None at the end


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    id: str  # task_…, never reused; the name may be, after a deletion
    tenant: str
    name: str
    kind: Kind
    classes: tuple[str, ...]  # in logit order; () for regression
    closed: bool  # an unknown label is an error rather than a new class
    description: str
    data_revision: int  # grows with every change that a training would see
    revision: int  # grows with every change of the task itself; its ETag
    created_at: float  # seconds since the epoch, UTC, as every time in this module
    updated_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSummary:
    """What a task holds, for a replica that serves `backbone_digest`."""

    examples: int
    labelled: int
    per_class: dict[str, int]  # labelled examples of each class
    versions: int
    production: int | None  # the version behind `production`, if any
    needs_training: bool  # labelled data or classes have changed since the newest version
    active_run: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewExample:
    """An example whose bytes are durable and whose row is not yet."""

    image_digest: str  # sha256 of the uploaded bytes, hex
    blob_key: str
    media_type: str
    filename: str | None
    width: int  # pixels, of the upright image
    height: int
    size: int  # bytes
    perceptual_hash: int  # 64 bits
    labels: tuple[str, ...] | None  # None: not labelled; () is a multilabel example of no class
    value: float | None  # regression only
    group: str | None
    split: SplitName | None  # given by the user
    embedding: bytes | None = None  # (D,) float32 little-endian, when it is known already


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    id: str  # ex_…, increasing with time
    task_id: str
    image_digest: str
    blob_key: str
    media_type: str
    filename: str | None
    width: int
    height: int
    size: int
    perceptual_hash: int
    labels: tuple[str, ...] | None
    value: float | None
    group: str | None
    split: SplitName | None
    split_by_user: bool
    created_at: float

    @property
    def labelled(self) -> bool:
        return self.labels is not None or self.value is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class AddResult:
    """What became of one added example."""

    status: AddStatus | None  # None where `error` alone says it
    example_id: str | None
    error: PolyheadError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRun:
    task_id: str
    kind: RunKind
    strategy: str | None  # of a training
    options: dict[str, Any]  # canonical: every option, defaults filled in
    publish: PublishPolicy
    backbone_digest: str
    id: str | None = None  # from `ids.new_id("run")`, where it must be known beforehand


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    id: str  # run_…
    tenant: str
    task_id: str
    task_name: str
    kind: RunKind
    state: RunState
    strategy: str | None
    options: dict[str, Any]
    publish: PublishPolicy
    backbone_digest: str
    progress: dict[str, Any]  # phase, epoch, losses, score, seconds_left: those that are known
    attempt: int  # 0 before the first claim; the fence of every later write
    cancel_requested: bool
    version: int | None
    published: bool | None
    published_reason: str | None
    reused: bool
    result: dict[str, Any] | None  # of an import: counts
    error: dict[str, Any] | None  # a problem
    created_at: float
    started_at: float | None
    finished_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEvent:
    id: int  # 1, 2, 3 … within the run
    event: Literal["state", "progress"]
    data: dict[str, Any]
    created_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportItem:
    """What became of one member of an imported archive."""

    index: int
    filename: str
    status: AddStatus | None
    example_id: str | None
    error: dict[str, Any] | None  # a problem


@dataclass(frozen=True, slots=True, kw_only=True)
class NewVersion:
    """A trained head whose files are durable and whose row is not yet."""

    strategy: str
    kind: Kind
    labels: tuple[str, ...]  # in logit order, as they were when it was trained
    threshold: float | None  # 0-1, multilabel
    options: dict[str, Any]
    seed: int
    data_revision: int
    split_digest: str
    evaluation: str  # "test" or "out_of_fold"
    fitted_on: str  # which examples the served head was fitted on
    metrics: dict[str, Any]
    history: list[dict[str, Any]]
    decision: dict[str, Any]
    backbone_digest: str
    trainable_parameters: int
    total_parameters: int
    shares_backbone: bool
    head_digest: str  # sha256 of head.onnx, hex
    head_key: str
    head_bytes: int
    predictions_key: str  # blob: what it answered for each evaluated example
    backbone_output: str = EMBEDDING  # what it consumes: that, the stage where its tail begins, or PIXELS
    views: tuple[str, ...] = (AS_IT_IS,)  # of models.views; an answer is the mean of their logits
    input_size: int | None = None  # pixels, of a version that owns its network
    factors_key: str | None = None  # blob: the low-rank factors of strategy lora, safetensors


@dataclass(frozen=True, slots=True, kw_only=True)
class Version(NewVersion):
    task_id: str
    number: int  # 1, 2, 3 …, never reused
    run_id: str
    created_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Alias:
    task_id: str
    name: str
    backbone_digest: str
    version: int
    pinned: bool
    revision: int  # its ETag
    updated_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A version that servers of one backbone answer from, whoever's task it is of."""

    tenant: str
    task_id: str
    task_name: str
    version: int
    aliases: tuple[Alias, ...]  # that point at it, by name


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """What a prediction needs to know of a version, which is immutable, and of the alias that led to it."""

    task_id: str
    task_name: str
    version: int
    kind: Kind
    labels: tuple[str, ...]
    threshold: float | None
    head_digest: str
    head_key: str
    backbone_digest: str
    backbone_output: str = EMBEDDING
    views: tuple[str, ...] = (AS_IT_IS,)
    input_size: int | None = None
    alias: str | None = None  # that it was found behind
    pinned: bool = False  # of that alias


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """What is kept of a key; its secret part is not."""

    id: str  # key_…, public
    tenant: str  # whose things it reaches
    name: str  # for people
    scopes: tuple[Scope, ...]
    digest: str = field(repr=False)  # HMAC-SHA256, hex
    pepper: str  # id of the pepper that the digest was made with
    created_at: float
    requests_per_minute: int | None = None  # of one HTTP process; None: as the setting says
    last_used_at: float | None = None  # to the minute
    revoked_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredResponse:
    """The answer that an Idempotency-Key brings back."""

    request_digest: str
    status: int
    headers: dict[str, str]
    body: bytes = field(repr=False)
