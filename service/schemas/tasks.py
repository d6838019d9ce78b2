"""Bodies of tasks."""

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from service.schemas.base import RequestBody
from service.schemas.pages import moment
from service.store.records import Kind, Task, TaskSummary

NAME_PATTERN = "^[a-z0-9][a-z0-9-]{0,62}$"

Name = Annotated[str, Field(pattern=NAME_PATTERN, description="`[a-z0-9][a-z0-9-]{0,62}`")]
Label = Annotated[str, Field(min_length=1, max_length=128)]


class CreateTask(RequestBody):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"name": "chairs", "kind": "multiclass", "classes": ["armchair", "stool"]},
                {"name": "price", "kind": "regression", "description": "Euros, from the product photo"},
            ]
        },
    )

    name: Name
    kind: Kind
    classes: list[Label] | None = Field(
        default=None,
        max_length=10_000,
        description="Given: closed, an unknown label is an error. Omitted: labels create classes.",
    )
    description: str = Field(default="", max_length=4096)


class UpdateTask(RequestBody):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"add_classes": ["bench"], "rename_classes": {"stool": "bar stool"}}]
        },
    )

    description: str | None = Field(default=None, max_length=4096)
    add_classes: list[Label] = Field(default=[], max_length=10_000)
    rename_classes: dict[Label, Label] = Field(default={}, description="Old label to new label.")
    remove_classes: list[Label] = Field(default=[], description="A class with examples is not removed: 409.")


class TaskBody(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "task_0628f1c0a3b2c14f5e6a7b8c9d",
                    "name": "chairs",
                    "kind": "multiclass",
                    "classes": ["armchair", "stool"],
                    "closed": True,
                    "description": "",
                    "examples": 412,
                    "labelled": 400,
                    "per_class": {"armchair": 220, "stool": 180},
                    "versions": 2,
                    "production": 2,
                    "needs_training": False,
                    "active_run": None,
                    "created_at": "2026-01-05T09:30:00Z",
                    "updated_at": "2026-01-05T09:41:12Z",
                }
            ]
        }
    )

    id: str
    name: str
    kind: Kind
    classes: list[str]
    closed: bool = Field(description="An unknown label is an error rather than a new class.")
    description: str
    examples: int
    labelled: int
    per_class: dict[str, int] = Field(description="Labelled examples of each class.")
    versions: int
    production: int | None = Field(description="The version that predict uses.")
    needs_training: bool = Field(description="Examples or classes have changed since the newest version.")
    active_run: str | None
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, task: Task, summary: TaskSummary) -> "TaskBody":
        return cls(
            id=task.id,
            name=task.name,
            kind=task.kind,
            classes=list(task.classes),
            closed=task.closed,
            description=task.description,
            examples=summary.examples,
            labelled=summary.labelled,
            per_class=summary.per_class,
            versions=summary.versions,
            production=summary.production,
            needs_training=summary.needs_training,
            active_run=summary.active_run,
            created_at=moment(task.created_at),
            updated_at=moment(task.updated_at),
        )
