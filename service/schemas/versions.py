"""Bodies of trained versions and of what they got wrong."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from service.schemas.pages import moment
from service.store.records import Kind, Task, Version


class Sizes(BaseModel):
    head_bytes: int = Field(description="Of head.onnx, or of a network of its own: what one more task costs.")
    backbone_bytes: int = Field(description="Of backbone.onnx, which versions share.")
    factors_bytes: int | None = Field(default=None, description="Of factors.safetensors; null without.")


class Links(BaseModel):
    head: str | None = Field(description="head.onnx; null for a version that owns its network.")
    model: str
    factors: str | None = Field(default=None, description="factors.safetensors, of strategy lora.")
    mistakes: str
    run: str


class VersionBody(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "version": 2,
                    "task": "chairs",
                    "run": "run_0628f1c0a3b2c14f5e6a7b8c9d",
                    "kind": "multiclass",
                    "labels": ["armchair", "stool"],
                    "threshold": None,
                    "strategy": "head",
                    "options": {"seed": 0, "solver": "exact", "l2": None, "class_weight": "auto"},
                    "seed": 0,
                    "data_revision": 14,
                    "split_digest": "1f0c…",
                    "evaluation": "test",
                    "fitted_on": "train and validation",
                    "metrics": {"count": 80, "primary": {"name": "balanced_accuracy", "value": 0.94}},
                    "history": [],
                    "decision": {"strength": {"chosen": 1.0}},
                    "backbone_digest": "5be1…",
                    "trainable_parameters": 2562,
                    "total_parameters": 3374346,
                    "shares_backbone": True,
                    "backbone_output": "embedding",
                    "views": ["as it is"],
                    "passes": 1,
                    "input_size": None,
                    "head_sha256": "9f86…",
                    "sizes": {"head_bytes": 10732, "backbone_bytes": 13561242, "factors_bytes": None},
                    "links": {
                        "head": "/v1/tasks/chairs/versions/2/head.onnx",
                        "model": "/v1/tasks/chairs/versions/2/model.onnx",
                        "factors": None,
                        "mistakes": "/v1/tasks/chairs/versions/2/mistakes",
                        "run": "/v1/runs/run_0628f1c0a3b2c14f5e6a7b8c9d",
                    },
                    "created_at": "2026-01-05T09:30:02Z",
                }
            ]
        }
    )

    version: int
    task: str
    run: str
    kind: Kind
    labels: list[str] = Field(description="In logit order, as they were when it was trained.")
    threshold: float | None = Field(description="Multilabel: labels at or above it are predicted.")
    strategy: str
    options: dict[str, Any]
    seed: int
    data_revision: int
    split_digest: str
    evaluation: str = Field(description="Where the metrics are from: `test` or `out_of_fold`.")
    fitted_on: str
    metrics: dict[str, Any] = Field(description="Overall, `per_class`, and `confusion_matrix`.")
    history: list[dict[str, Any]]
    decision: dict[str, Any] = Field(description="What was tried, its scores, and why this was chosen.")
    backbone_digest: str
    trainable_parameters: int
    total_parameters: int
    shares_backbone: bool
    backbone_output: str = Field(
        description=(
            "What it consumes of the backbone: `embedding`, or the stage where a tail begins; `pixels`: its "
            "network is its own."
        )
    )
    views: list[str] = Field(description="Of an image, whose mean logits are the answer.")
    passes: int = Field(description="How often an image goes through the network: once a view.")
    input_size: int | None = Field(description="Pixels, of a network of its own; null: the backbone's.")
    head_sha256: str
    sizes: Sizes
    links: Links
    created_at: datetime

    @classmethod
    def of(cls, task: Task, version: Version, *, backbone_bytes: int) -> "VersionBody":
        here = f"/v1/tasks/{task.name}/versions/{version.number}"
        return cls(
            version=version.number,
            task=task.name,
            run=version.run_id,
            kind=version.kind,
            labels=list(version.labels),
            threshold=version.threshold,
            strategy=version.strategy,
            options=version.options,
            seed=version.seed,
            data_revision=version.data_revision,
            split_digest=version.split_digest,
            evaluation=version.evaluation,
            fitted_on=version.fitted_on,
            metrics=version.metrics,
            history=version.history,
            decision=version.decision,
            backbone_digest=version.backbone_digest,
            trainable_parameters=version.trainable_parameters,
            total_parameters=version.total_parameters,
            shares_backbone=version.shares_backbone,
            backbone_output=version.backbone_output,
            views=list(version.views),
            passes=len(version.views),
            input_size=version.input_size,
            head_sha256=version.head_digest,
            sizes=Sizes(
                head_bytes=version.head_bytes,
                backbone_bytes=backbone_bytes,
                factors_bytes=version.decision.get("factors", {}).get("bytes"),
            ),
            links=Links(
                head=f"{here}/head.onnx" if version.shares_backbone else None,
                model=f"{here}/model.onnx",
                factors=f"{here}/factors.safetensors" if version.factors_key else None,
                mistakes=f"{here}/mistakes",
                run=f"/v1/runs/{version.run_id}",
            ),
            created_at=moment(version.created_at),
        )


class Mistake(BaseModel):
    """One evaluated example that the version got wrong; of a regression, each, the farthest off first."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "example": "ex_0628f1c0a3b2c14f5e6a7b8c9d",
                    "image": "/v1/tasks/chairs/examples/ex_0628f1c0a3b2c14f5e6a7b8c9d/image",
                    "deleted": False,
                    "label": "armchair",
                    "prediction": "stool",
                    "score": 0.91,
                    "loss": 2.41,
                }
            ]
        }
    )

    example: str
    image: str | None = Field(description="Null when the example has been deleted since.")
    deleted: bool
    label: str | list[str] | float = Field(description="As it was at the evaluation.")
    prediction: str | list[str] | float
    score: float | None = Field(
        description="Multiclass: probability of the prediction. Multilabel: of the label that is worst off."
    )
    loss: float
