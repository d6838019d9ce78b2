"""Bodies of aliases."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from service.schemas.base import RequestBody
from service.schemas.pages import moment
from service.store.records import Alias, Task


class PutAlias(RequestBody):
    model_config = ConfigDict(json_schema_extra={"examples": [{"version": 1, "pinned": True}]})

    version: int = Field(ge=1, lt=2**31)
    pinned: bool = Field(
        default=False,
        description="A training never moves a pinned alias, and its version stays in the worker's memory.",
    )


class AliasBody(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "task": "chairs",
                    "alias": "production",
                    "version": 1,
                    "pinned": True,
                    "backbone_digest": "5be1…",
                    "updated_at": "2026-01-05T09:30:02Z",
                }
            ]
        }
    )

    task: str
    alias: str
    version: int
    pinned: bool
    backbone_digest: str = Field(description="The alias holds on servers with this backbone.")
    updated_at: datetime

    @classmethod
    def of(cls, task: Task, alias: Alias) -> "AliasBody":
        return cls(
            task=task.name,
            alias=alias.name,
            version=alias.version,
            pinned=alias.pinned,
            backbone_digest=alias.backbone_digest,
            updated_at=moment(alias.updated_at),
        )
