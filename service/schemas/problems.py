"""RFC 9457 problem bodies."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class FieldProblem(BaseModel):
    """One thing that is wrong with a request."""

    pointer: str = Field(description="JSON pointer into the body; empty for the body itself or a parameter.")
    detail: str
    parameter: str | None = Field(
        default=None, description="The path, query or header parameter, if it is one."
    )


class Problem(BaseModel):
    """What went wrong, as application/problem+json. Match on `code`, show `detail`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "urn:polyhead:problem:unknown_task",
                    "title": "Unknown task",
                    "status": 404,
                    "detail": "there is no task 'chairs'",
                    "instance": "/v1/tasks/chairs",
                    "code": "unknown_task",
                }
            ]
        }
    )

    type: str = Field(description="A URN that ends with the code.")
    title: str
    status: int
    detail: str
    instance: str | None = Field(default=None, description="The path of the request.")
    code: str = Field(description="Stable; see the table of errors in the documentation.")
    errors: list[FieldProblem] | None = Field(
        default=None, description="Of an invalid body: each thing, where it is."
    )
    run: str | None = Field(default=None, description="The active run, where one is in the way.")
    example: str | None = Field(default=None, description="The stored example, where one is in the way.")

    def to_json(self) -> dict[str, Any]:
        """As a JSON object, without what isn't known."""
        return self.model_dump(mode="json", exclude_none=True)
