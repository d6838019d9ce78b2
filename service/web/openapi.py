"""The OpenAPI document: what FastAPI makes of the routes, with our problems and our bodies in it."""

from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from service.schemas.bodies import JSON_MODELS
from service.schemas.problems import Problem
from service.web.problems import MEDIA_TYPE
from service.web.scopes import NEEDED

ABOUT: dict[str, Any] = {
    "title": "Polyhead",
    "version": version("polyhead"),
    "summary": "One frozen vision backbone, many task heads.",
    "license_info": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
    "openapi_tags": [
        {"name": "tasks", "description": "What an app has registered to be taught."},
        {"name": "examples", "description": "The images that a task is taught with."},
        {"name": "runs", "description": "Trainings and imports."},
        {"name": "versions", "description": "Trained heads, their evidence and their files."},
        {"name": "aliases", "description": "Which version is served."},
        {"name": "predictions", "description": "Answers about images."},
        {"name": "embeddings", "description": "Images as vectors."},
        {"name": "backbone", "description": "The network that all heads share."},
        {"name": "probes", "description": "For machines."},
    ],
}
_REF = "#/components/schemas/{model}"
_FASTAPIS_OWN = ("HTTPValidationError", "ValidationError")
_PROBLEM = {"content": {MEDIA_TYPE: {"schema": {"$ref": _REF.format(model="Problem")}}}}


SCHEMES: dict[str, Any] = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "ph_…",
        "description": "An API key, where the server asks for one. `polyhead key create` makes it.",
    },
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same in a header."},
}


def describe(app: FastAPI) -> None:
    """Give the app an `openapi` that tells of problems rather than of FastAPI's own errors."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            _complete(generate())
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way


def _complete(document: dict[str, Any]) -> None:
    models: tuple[type[BaseModel], ...] = (Problem, *JSON_MODELS)
    _, said = models_json_schema([(model, "validation") for model in models], ref_template=_REF)
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for name in _FASTAPIS_OWN:
        schemas.pop(name, None)
    for name, schema in said["$defs"].items():
        schemas.setdefault(name, schema)
    document["components"]["securitySchemes"] = SCHEMES
    for operations in document["paths"].values():
        for operation in operations.values():
            operation["summary"] = operation["operationId"].replace("_", " ").capitalize()
            answers = operation["responses"]
            if "HTTPValidationError" in str(answers.get("422")):
                answers["422"] = {"description": "Problem: `invalid_field`"} | _PROBLEM
            _secure(operation, answers)
            answers["default"] = {"description": "Any other problem"} | _PROBLEM


def _secure(operation: dict[str, Any], answers: dict[str, Any]) -> None:
    """Say which scope a key needs, where keys are on; the probes that are open need none."""
    scope = NEEDED.get(operation["operationId"])
    if scope is None:
        return
    # A list beside a scheme that isn't OAuth2 names roles: OpenAPI 3.1, Security Requirement Object.
    operation["security"] = [{scheme: [scope]} for scheme in SCHEMES]
    limited, rate = answers.get("429", {}).get("description"), "`rate_limited`"
    answers["429"] = {"description": f"{limited}, {rate}" if limited else f"Problem: {rate}"} | _PROBLEM
    answers["401"] = {"description": "Problem: `key_needed`, `invalid_key`"} | _PROBLEM
    lacks, more = (
        f"Problem: `missing_scope`, the key lacks `{scope}`",
        answers.get("403", {}).get("description"),
    )
    answers["403"] = {"description": f"{lacks}. {more}" if more else lacks} | _PROBLEM
