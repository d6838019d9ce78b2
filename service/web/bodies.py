"""JSON bodies that a route reads itself, because it accepts other shapes too."""

from typing import TypeVar

import anyio.to_thread
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

Body = TypeVar("Body", bound=BaseModel)


async def read_json(request: Request, model: type[Body]) -> Body:
    """Parse and validate the body, in a thread: it may be 64 MiB of base64.

    Raises: RequestValidationError: it is no JSON, or of the wrong shape.
    """
    return await anyio.to_thread.run_sync(_validate, await request.body(), model)


def _validate(body: bytes, model: type[Body]) -> Body:
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise RequestValidationError(
            [
                {**said, "loc": ("body", *said["loc"])}
                for said in error.errors(include_url=False, include_input=False)
            ]
        ) from None


def media_type(request: Request) -> str:
    """The content type without its parameters, in lower case; empty when none is said."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def is_json(request: Request) -> bool:
    said = media_type(request)
    return said == "application/json" or (said.startswith("application/") and said.endswith("+json"))
