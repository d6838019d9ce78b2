"""The shapes of an image in JSON."""

from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from service.schemas.base import RequestBody

PIXEL = (  # a PNG of one pixel, for OpenAPI's examples
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
)

_STRING_SCHEMA = {
    "type": "string",
    "minLength": 1,
    "description": "A data URI (`data:image/jpeg;base64,…`) or bare base64.",
}
_URL_SCHEMA = {
    "type": "object",
    "description": "OpenAI's shape.",
    "properties": {
        "type": {"const": "image_url"},
        "image_url": {
            "type": "object",
            "properties": {"url": _STRING_SCHEMA, "detail": {"type": "string"}},
            "required": ["url"],
        },
    },
    "required": ["type", "image_url"],
}
_INNER_SCHEMA = {"anyOf": [_STRING_SCHEMA, _URL_SCHEMA]}
_IMAGE_SCHEMA = {
    "anyOf": [
        *_INNER_SCHEMA["anyOf"],
        {
            "type": "object",
            "properties": {"image": _INNER_SCHEMA},
            "required": ["image"],
            "additionalProperties": False,
        },
    ]
}


def _text_of(said: Any) -> str:
    """The string inside any of the JSON shapes of an image."""
    match said:
        case {"image": inner} if len(said) == 1 and not (isinstance(inner, dict) and "image" in inner):
            return _text_of(inner)
        case {"type": "image_url", "image_url": {"url": str(text)}} | str(text) if text:
            return text
    raise PydanticCustomError(
        "image",
        'an image is a data URI or base64 string, {"image": …} or '
        '{"type": "image_url", "image_url": {"url": …}}',
    )


def _listed(said: Any) -> Any:
    return said if isinstance(said, list) else [said]


ImageText = Annotated[str, BeforeValidator(_text_of), WithJsonSchema(_IMAGE_SCHEMA)]
"""One image in JSON, reduced to its string."""

ImageTexts = Annotated[
    list[ImageText],
    BeforeValidator(_listed),
    WithJsonSchema(
        {"anyOf": [*_IMAGE_SCHEMA["anyOf"], {"type": "array", "items": _IMAGE_SCHEMA, "minItems": 1}]}
    ),
]
"""One image or several in JSON."""


class WithImages(RequestBody):
    """A JSON body whose `input` is images."""

    input: ImageTexts
