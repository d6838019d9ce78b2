"""RFC 9457 problem bodies, and how an error becomes one."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from models.errors import InvalidOption, PolyheadError
from service.errors import InvalidField, LabelConflict, RunActive, problem_of


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


def describe(error: PolyheadError, *, instance: str | None = None, pointer: str = "") -> Problem:
    """The wire body of one error; `pointer` is to the item of the request that it is about."""
    row = problem_of(error)
    return Problem(
        type=urn(row.code),
        title=row.title,
        status=row.status,
        detail=str(error),
        instance=instance,
        code=row.code,
        errors=_fields(error, pointer),
        run=error.run if isinstance(error, RunActive) else None,
        example=error.example if isinstance(error, LabelConflict) else None,
    )


def pointer_to(*keys: str | int) -> str:
    """An RFC 6901 JSON pointer."""
    return "".join("/" + str(key).replace("~", "~0").replace("/", "~1") for key in keys)


def _fields(error: PolyheadError, pointer: str) -> list[FieldProblem] | None:
    if isinstance(error, InvalidOption):
        return [FieldProblem(pointer=pointer + pointer_to(error.field), detail=str(error))]
    if isinstance(error, InvalidField):
        return [FieldProblem(pointer=pointer + error.pointer, detail=str(error))]
    return [FieldProblem(pointer=pointer, detail=str(error))] if pointer else None


def urn(code: str) -> str:
    return f"urn:polyhead:problem:{code}"
