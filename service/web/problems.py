"""Errors on the wire: every one of them is application/problem+json, none shows a stack trace."""

import http
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match

from models.errors import PolyheadError
from service.errors import (
    PROBLEMS,
    InvalidField,
    InvalidKey,
    MalformedRequest,
    MissingScope,
    NotReady,
    Overloaded,
    RateLimited,
    RequestInProgress,
    TooManyRuns,
    Unauthenticated,
    UnsupportedContentType,
    problem_of,
)
from service.schemas.problems import FieldProblem, Problem, describe, pointer_to, urn
from service.web.bodies import is_json, media_type

log = structlog.stdlib.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"
NO_OBJECT = "model_attributes_type"  # pydantic's error for a whole body that is no JSON object
MAX_FIELDS = 100  # that an answer lists of a request in which nearly everything is wrong
RETRY_AFTER_S = 1  # where an error doesn't say otherwise and a later try may go well


class EveryItemFailed(Exception):
    """No item of a batch went well: the first one's error answers for the request, and each is listed."""

    def __init__(self, failures: Sequence[tuple[str, PolyheadError]]) -> None:
        self.failures = failures  # JSON pointer and error of each item
        super().__init__(str(failures[0][1]))


def respond(error: PolyheadError, *, instance: str) -> JSONResponse:
    """The whole answer to a request that failed with `error`."""
    return _answer(describe(error, instance=instance), headers=retry_headers(error) | challenge(error))


def internal_error(*, instance: str) -> JSONResponse:
    """The answer to what nobody foresaw: no detail, since it may hold anything."""
    row = PROBLEMS[PolyheadError]
    detail = "the server failed; its log has this request's id"
    return _answer(
        Problem(
            type=urn(row.code),
            title=row.title,
            status=row.status,
            detail=detail,
            instance=instance,
            code=row.code,
        )
    )


def retry_headers(error: PolyheadError) -> dict[str, str]:
    """Retry-After, for the errors that pass by themselves."""
    match error:
        case Overloaded() | RateLimited() | TooManyRuns():
            return {"Retry-After": str(error.retry_after_s)}
        case NotReady() | RequestInProgress():
            return {"Retry-After": str(RETRY_AFTER_S)}
        case _:
            return {}


def challenge(error: PolyheadError) -> dict[str, str]:
    """WWW-Authenticate, as RFC 6750 has it for bearer tokens."""
    match error:
        case InvalidKey():
            return {"WWW-Authenticate": 'Bearer realm="polyhead", error="invalid_token"'}
        case Unauthenticated():
            return {"WWW-Authenticate": 'Bearer realm="polyhead"'}
        case MissingScope():
            said = f'Bearer realm="polyhead", error="insufficient_scope", scope="{error.scope}"'
            return {"WWW-Authenticate": said}
        case _:
            return {}


def responses(
    *kinds: type[PolyheadError], also: Mapping[int, dict[str, Any]] = MappingProxyType({})
) -> dict[int | str, dict[str, Any]]:
    """What a route says of its errors in OpenAPI, one entry a status, after its other answers."""
    by_status: dict[int, list[str]] = {}
    for kind in kinds:
        by_status.setdefault(PROBLEMS[kind].status, []).append(PROBLEMS[kind].code)
    said: dict[int | str, dict[str, Any]] = {
        status: {
            "description": "Problem: " + ", ".join(f"`{code}`" for code in codes),
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status, codes in by_status.items()
    }
    return {**also} | said


def add_handlers(app: FastAPI) -> None:
    """Make every error that leaves a route a problem."""
    app.add_exception_handler(PolyheadError, _on_polyhead_error)
    app.add_exception_handler(EveryItemFailed, _on_failed_batch)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(HTTPException, _on_http_error)


async def _on_polyhead_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, PolyheadError)
    if problem_of(error).status >= 500:
        log.warning("a request could not be answered", reason=str(error), cause=repr(error.__cause__))
    return respond(error, instance=request.url.path)


async def _on_failed_batch(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, EveryItemFailed)
    pointer, first = error.failures[0]
    problem = describe(first, instance=request.url.path)
    listed = [describe(item, pointer=where).errors or [] for where, item in error.failures]
    changed = {
        "detail": f"{pointer}: {first}" if pointer else str(first),
        "errors": [field for fields in listed for field in fields] or None,
    }
    return _answer(problem.model_copy(update=changed), headers=retry_headers(first))


async def _on_invalid_request(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    if not is_json(request) and any(said["type"] == NO_OBJECT for said in error.errors()):
        # FastAPI takes a body that isn't called JSON for one string; `curl -d` calls it a form.
        return respond(UnsupportedContentType(media_type(request)), instance=request.url.path)
    return _answer(invalid_request(error.errors(), instance=request.url.path))


async def _on_http_error(request: Request, error: Exception) -> JSONResponse:
    """Starlette's own errors: no such route, no such method, a body that FastAPI could not read."""
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, PolyheadError):  # FastAPI wraps what is raised while it reads a body
        return respond(error.__cause__, instance=request.url.path)
    if error.status_code == http.HTTPStatus.BAD_REQUEST:
        return respond(MalformedRequest("the body can't be read: it is not UTF-8"), instance=request.url.path)
    status = http.HTTPStatus(error.status_code)
    problem = Problem(
        type=urn(status.name.lower()),
        title=status.phrase,
        status=status,
        detail=str(error.detail),
        instance=request.url.path,
        code=status.name.lower(),
    )
    headers = dict(error.headers or {})
    if status == http.HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(_allowed(request))
    return _answer(problem, headers=headers)


def _allowed(request: Request) -> list[str]:
    """The methods of every route with this path; Starlette names those of the first alone."""
    return [
        method
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE")
        if any(
            route.matches({**request.scope, "method": method})[0] is Match.FULL
            for route in request.app.router.routes
        )
    ]


def invalid_request(errors: Sequence[Any], *, instance: str | None) -> Problem:
    """A request that pydantic refused: 400 for what is no JSON at all, else 422 with what is wrong where."""
    unparsable = next((error for error in errors if error["type"] == "json_invalid"), None)
    if unparsable is not None:
        reason = unparsable.get("ctx", {}).get("error", unparsable["msg"])
        return describe(MalformedRequest(f"the body is not JSON: {reason}"), instance=instance)
    row = PROBLEMS[InvalidField]
    fields = [_field(error) for error in errors[:MAX_FIELDS]]
    first = fields[0]
    where = first.parameter or first.pointer or "the body"
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return Problem(
        type=urn(row.code),
        title=row.title,
        status=row.status,
        detail=f"{where}: {first.detail}{more}",
        instance=instance,
        code=row.code,
        errors=fields,
    )


def _field(error: Any) -> FieldProblem:
    place, *keys = error["loc"] or ("body",)
    detail = error["msg"].removeprefix("Value error, ")
    if place == "body":
        return FieldProblem(pointer=pointer_to(*keys), detail=detail)
    return FieldProblem(pointer="", detail=detail, parameter=".".join(str(key) for key in keys))


def _answer(problem: Problem, *, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse(problem.to_json(), problem.status, headers=headers, media_type=MEDIA_TYPE)
