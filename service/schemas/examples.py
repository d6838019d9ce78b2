"""Bodies of labelled images."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from service.schemas.base import RequestBody
from service.schemas.images import PIXEL, ImageText
from service.schemas.pages import moment
from service.schemas.problems import Problem
from service.store.records import AddStatus, Example, SplitName, Task


class Labelling(RequestBody):
    """What a user says of one image; absent means nothing is said, null takes it away."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"label": "armchair"}]})

    label: str | None = Field(default=None, description="Multiclass; of a multilabel task, the only one.")
    labels: list[str] | None = Field(
        default=None, max_length=10_000, description="Multilabel; empty: none applies."
    )
    value: FiniteFloat | None = Field(default=None, description="Regression.")
    group: str | None = Field(
        default=None, min_length=1, max_length=256, description="Stays on one side of the split."
    )
    split: SplitName | None = Field(
        default=None, description="Wins over the split that training would assign."
    )


class NewExampleBody(Labelling):
    image: ImageText
    filename: str | None = Field(
        default=None, max_length=1024, description="Kept and shown, as a form's; never used as a path."
    )


class AddExamples(RequestBody):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"examples": [{"image": PIXEL, "filename": "a.jpg", "label": "armchair", "split": "train"}]}
            ]
        },
    )

    examples: list[NewExampleBody]


class AddedExample(BaseModel):
    index: int
    filename: str | None
    id: str | None
    status: AddStatus | None = Field(description="Null for an image that failed.")
    error: Problem | None = None


class AddSummary(BaseModel):
    created: int
    duplicate: int
    conflict: int
    failed: int


class AddedExamples(BaseModel):
    """One result per image, in input order."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "data": [
                        {
                            "index": 0,
                            "filename": "a.jpg",
                            "id": "ex_0628f1c0a3b2c14f5e6a7b8c9d",
                            "status": "created",
                            "error": None,
                        }
                    ],
                    "summary": {"created": 1, "duplicate": 0, "conflict": 0, "failed": 0},
                }
            ]
        }
    )

    data: list[AddedExample]
    summary: AddSummary


class ExampleBody(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "ex_0628f1c0a3b2c14f5e6a7b8c9d",
                    "filename": "a.jpg",
                    "media_type": "image/jpeg",
                    "width": 640,
                    "height": 480,
                    "size": 81234,
                    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
                    "label": "armchair",
                    "labels": ["armchair"],
                    "value": None,
                    "labelled": True,
                    "group": None,
                    "split": "train",
                    "image": "/v1/tasks/chairs/examples/ex_0628f1c0a3b2c14f5e6a7b8c9d/image",
                    "created_at": "2026-01-05T09:30:00Z",
                }
            ]
        }
    )

    id: str
    filename: str | None
    media_type: str
    width: int = Field(description="Pixels, of the upright image.")
    height: int
    size: int = Field(description="Bytes.")
    sha256: str
    label: str | None = Field(description="The only label, if there is exactly one.")
    labels: list[str] | None
    value: float | None
    labelled: bool
    group: str | None
    split: SplitName | None
    image: str = Field(description="Where the image is.")
    created_at: datetime

    @classmethod
    def of(cls, task: Task, example: Example) -> "ExampleBody":
        labels = None if example.labels is None else list(example.labels)
        return cls(
            id=example.id,
            filename=example.filename,
            media_type=example.media_type,
            width=example.width,
            height=example.height,
            size=example.size,
            sha256=example.image_digest,
            label=labels[0] if labels and len(labels) == 1 else None,
            labels=labels,
            value=example.value,
            labelled=example.labelled,
            group=example.group,
            split=example.split,
            image=image_path(task.name, example.id),
            created_at=moment(example.created_at),
        )


class ImportItemBody(BaseModel):
    """What became of one member of an imported archive."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "index": 0,
                    "filename": "armchair/a.jpg",
                    "id": "ex_0628f1c0a3b2c14f5e6a7b8c9d",
                    "status": "created",
                    "error": None,
                }
            ]
        }
    )

    index: int
    filename: str
    id: str | None
    status: AddStatus | None
    error: dict[str, Any] | None


def image_path(task: str, example: str) -> str:
    return f"/v1/tasks/{task}/examples/{example}/image"
