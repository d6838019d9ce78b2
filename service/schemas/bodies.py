"""What OpenAPI says of bodies that come in several content types, which their routes read themselves."""

from typing import Any

from pydantic import BaseModel

from service.schemas.embeddings import CreateEmbeddings
from service.schemas.examples import AddExamples
from service.schemas.images import PIXEL
from service.schemas.predictions import FanOutBody, PredictBody

JSON_MODELS: tuple[type[BaseModel], ...] = (CreateEmbeddings, AddExamples, PredictBody, FanOutBody)
"""Referred to below, so that OpenAPI must list them among its components."""

_FILES: dict[str, Any] = {
    "type": "array",
    "items": {"type": "string", "format": "binary"},
    "description": "JPEG, PNG or WebP; repeat the part for several.",
}
_TEXT: dict[str, Any] = {"type": "string"}


def _json(model: type[BaseModel], example: dict[str, Any]) -> dict[str, Any]:
    return {
        "application/json": {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}, "example": example}
    }


def _form(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "additionalProperties": False}
    if required:
        schema["required"] = required
    return {"multipart/form-data": {"schema": schema}}


def _body(*contents: dict[str, Any]) -> dict[str, Any]:
    content = {name: said for part in contents for name, said in part.items()}
    return {"requestBody": {"required": True, "content": content}}


_RAW: dict[str, Any] = {
    f"image/{name}": {"schema": {"type": "string", "format": "binary"}} for name in ("jpeg", "png", "webp")
}

PREDICT = _body(_json(PredictBody, {"input": [PIXEL]}), _form({"file": _FILES}, ["file"]), _RAW)

FAN_OUT = _body(
    _json(FanOutBody, {"tasks": ["chairs", "damage@candidate", "price@3"], "input": PIXEL}),
    _form({"file": _FILES, "tasks": {"type": "array", "items": _TEXT, "minItems": 1}}, ["file", "tasks"]),
)

EMBED = _body(
    _json(CreateEmbeddings, {"input": [PIXEL], "encoding_format": "base64"}),
    _form({"file": _FILES}, ["file"]),
    _RAW,
)

UPLOAD = _body(
    _json(AddExamples, {"examples": [{"image": PIXEL, "label": "armchair", "split": "train"}]}),
    _form(
        {
            "file": _FILES,
            "archive": {
                "type": "string",
                "format": "binary",
                "description": "zip or tar, alone: `class/x.jpg`, `train/class/x.jpg`, or a metadata file.",
            },
            "label": {
                "type": "array",
                "items": _TEXT,
                "description": "Of every file; several for multilabel, a number for regression.",
            },
            "group": _TEXT,
            "split": {"enum": ["train", "validation", "test"]},
        },
        [],
    ),
)
