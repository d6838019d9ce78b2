"""Bodies of trainings and imports."""

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from models.domain import Domain
from models.strategies import STRATEGIES
from models.strategies.options import (
    BOUNDS,
    Augmentation,
    BatchNorm,
    ClassWeight,
    DomainOption,
    Monitor,
    Schedule,
    Solver,
)
from models.strategies.rule import Rule
from service.schemas.base import RequestBody
from service.schemas.pages import moment
from service.store.records import PublishPolicy, Run, RunKind, RunState

Strategy = Annotated[str, Field(max_length=64), WithJsonSchema({"type": "string", "enum": list(STRATEGIES)})]
"""Any string is read, so that the error can name the strategies that there are."""


def _number(name: str, description: str) -> Any:
    least, most = BOUNDS[name]
    return Field(default=None, ge=least, le=most, description=description)


class CreateRun(RequestBody):
    """Below `seed`: options of the strategies, and of their solvers; those left out have their defaults."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"strategy": "head", "publish": "if_better", "seed": 0},
                {"strategy": "head", "hidden": 128},
                {"strategy": "last_block", "blocks": 2},
                {"strategy": "auto", "max_seconds": 300, "dry_run": True},
            ]
        },
    )

    strategy: Strategy = "head"
    publish: PublishPolicy = Field(
        default="first",
        description=(
            "`first`: the task's first version becomes `production`. `if_better`: the new version does when "
            "it is better on the shared test examples."
        ),
    )
    dry_run: bool = Field(default=False, description="Only say what would be done.")
    force: bool = Field(default=False, description="Train even if nothing has changed since an equal run.")
    seed: int = Field(default=0, ge=0, lt=2**32, description="Of every random choice.")

    solver: Solver | None = Field(
        default=None, description="`head`: its exact optimum, or by gradient; `hidden` implies `adam`."
    )
    l2: float | None = _number("l2", "`head`, exact: the penalty; left out, validation chooses it.")
    hidden: int | None = _number(
        "hidden", "`head`: units of a hidden layer with ReLU, which makes it an MLP."
    )
    blocks: int | None = _number("blocks", "Of the network's end, that train, or take factors.")
    epochs: int | None = _number("epochs", "At most, after the warm-up; early stopping ends sooner.")
    warmup_epochs: int | None = _number("warmup_epochs", "In which the head trains alone.")
    batch_size: int | None = _number("batch_size", "Examples.")
    lr: float | None = _number("lr", "Learning rate of the head.")
    decay: float | None = _number(
        "decay", "Rate of a block, or of the factors, over that of what follows it."
    )
    weight_decay: float | None = _number("weight_decay", "Decoupled, as AdamW's.")
    schedule: Schedule | None = Field(default=None, description="Of the rates, after the warm-up.")
    label_smoothing: float | None = _number("label_smoothing", "A regression has none.")
    class_weight: ClassWeight | None = Field(
        default=None, description="auto: halfway to balanced, where classes differ much in size."
    )
    augmentation: Augmentation | None = Field(
        default=None, description="light: flips left to right; heavy: top to bottom, too."
    )
    average_flips: bool | None = Field(
        default=None, description="Answer with the mean over the augmentation's flips: so many passes."
    )
    batch_norm: BatchNorm | None = Field(default=None, description="auto: eval wherever frozen or small.")
    monitor: Monitor | None = Field(
        default=None,
        description=(
            "score, loss: what early stopping follows on validation. end: all epochs are trained, and the "
            "last is kept if it scores above the start there, or else the start. none: the last one is kept."
        ),
    )
    patience: int | None = _number("patience", "Epochs without a better validation, after which it ends.")
    rank: int | None = _number("rank", "`lora`: of the factors, which stay under 1 % of the backbone.")
    alpha: float | None = _number("alpha", "`lora`: the factors count alpha / rank times.")
    unfreeze_every: int | None = _number(
        "unfreeze_every", "`finetune`: epochs after which one more block trains; null: all at once."
    )
    single_lr: bool | None = Field(default=None, description="`finetune`: one rate for all, to compare.")
    pretrained: bool | None = Field(
        default=None, description="`finetune`: false starts from random weights, to compare."
    )
    input_size: int | None = _number(
        "input_size", "`finetune`: pixels, of the task's own network; null: the backbone's."
    )
    max_seconds: float | None = _number(
        "max_seconds", "Of the fit; the best so far is kept. `auto`: of all rungs together, at least 10."
    )
    domain: DomainOption | None = Field(
        default=None,
        description="`auto`: how far the images are from the pretraining data; `auto` measures it.",
    )


class DomainBody(BaseModel):
    """How far the images are from the pretraining data, and how that is known."""

    domain: Literal["similar", "distant"]
    measure: Literal["given", "classifier_entropy", "batch_norm_distance", "none"]
    value: float | None = Field(description="In the measure's unit; null where nothing was measured.")
    threshold: float | None = Field(description="At or above it, a domain is distant.")
    images: int = Field(description="That were measured; none of them is a test example.")
    given: bool = Field(description="The request said so, and nothing was measured.")
    because: str


class AutoPlan(BaseModel):
    """What strategy `auto` would begin with. What is kept is decided by validation."""

    rule: str = Field(description="The row of the table that fired: size and domain.")
    because: str
    size: Literal["small", "medium", "large"]
    rung: str = Field(description="The strategy to start from; cheaper ones are what it has to beat.")
    order: list[str] = Field(description="Strategies to try, cheapest first.")
    not_tried: dict[str, str] = Field(description="The others, each with the reason.")
    augmentation: Augmentation
    batch_norm: Literal["eval", "train"]
    blocks: int | None = Field(description="To thaw to begin with; null: all.")
    domain: DomainBody

    @classmethod
    def of(cls, rule: Rule, domain: Domain) -> "AutoPlan":
        return cls(
            rule=rule.name,
            because=rule.because,
            size=rule.size,
            rung=rule.start,
            order=list(rule.order),
            not_tried={str(rung): why for rung, why in rule.not_tried.items()},
            augmentation=rule.augmentation,
            batch_norm=rule.batch_norm,
            blocks=rule.blocks,
            domain=DomainBody(**asdict(domain)),
        )


class RunPlan(BaseModel):
    """What a run would do."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "dry_run": True,
                    "task": "chairs",
                    "strategy": "head",
                    "options": {"seed": 0, "solver": "exact", "l2": None, "class_weight": "auto"},
                    "publish": "first",
                    "evaluation": "test",
                    "evaluation_because": "the smallest class, 'stool', has 180 examples, the bound is 20",
                    "labelled": 400,
                    "unlabelled": 12,
                    "per_class": {"armchair": 220, "stool": 180},
                    "trainable_parameters": 2562,
                    "reuses_version": None,
                    "auto": None,
                }
            ]
        }
    )

    dry_run: bool = True
    task: str
    strategy: str
    options: dict[str, Any]
    publish: PublishPolicy
    evaluation: str = Field(
        description="`test`: examples set aside. `out_of_fold`: every example, by a head that never saw it."
    )
    evaluation_because: str
    labelled: int
    unlabelled: int
    per_class: dict[str, int]
    trainable_parameters: int
    reuses_version: int | None = Field(description="The equal version that would be answered instead.")
    auto: AutoPlan | None = Field(default=None, description="Of strategy `auto` alone.")


class RunBody(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "run_0628f1c0a3b2c14f5e6a7b8c9d",
                    "task": "chairs",
                    "kind": "train",
                    "state": "succeeded",
                    "strategy": "head",
                    "options": {"seed": 0, "solver": "exact", "l2": None, "class_weight": "auto"},
                    "publish": "first",
                    "progress": {"phase": "done"},
                    "version": 1,
                    "published": True,
                    "published_reason": "the task's first version",
                    "reused": False,
                    "result": None,
                    "error": None,
                    "cancel_requested": False,
                    "created_at": "2026-01-05T09:30:00Z",
                    "started_at": "2026-01-05T09:30:00Z",
                    "finished_at": "2026-01-05T09:30:02Z",
                }
            ]
        }
    )

    id: str
    task: str
    kind: RunKind
    state: RunState
    strategy: str | None
    options: dict[str, Any]
    publish: PublishPolicy
    progress: dict[str, Any] = Field(description="phase, epoch, losses, score, seconds_left: those known.")
    version: int | None = Field(description="The version it made, or found.")
    published: bool | None = Field(description="Whether that version became `production`.")
    published_reason: str | None
    reused: bool = Field(description="Nothing had changed since an equal run: its version is named.")
    result: dict[str, Any] | None = Field(description="Of an import: how many images met which fate.")
    error: dict[str, Any] | None = Field(description="Of a failed run: a problem.")
    cancel_requested: bool
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @classmethod
    def of(cls, run: Run) -> "RunBody":
        return cls(
            id=run.id,
            task=run.task_name,
            kind=run.kind,
            state=run.state,
            strategy=run.strategy,
            options={key: value for key, value in run.options.items() if key not in INTERNAL_OPTIONS},
            publish=run.publish,
            progress=run.progress,
            version=run.version,
            published=run.published,
            published_reason=run.published_reason,
            reused=run.reused,
            result=run.result,
            error=run.error,
            cancel_requested=run.cancel_requested,
            created_at=moment(run.created_at),
            started_at=None if run.started_at is None else moment(run.started_at),
            finished_at=None if run.finished_at is None else moment(run.finished_at),
        )


INTERNAL_OPTIONS = frozenset({"archive"})  # where an import's bytes are is the store's business
