"""Images wherever one is accepted: multipart files, JSON strings, bare bytes; each becomes a `Source`."""

import binascii
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from fastapi import Request
from pydantic import BaseModel

from models.errors import InvalidImage
from service.errors import InvalidField, TooManyImages, UnsupportedContentType
from service.schemas.images import WithImages
from service.schemas.problems import pointer_to
from service.settings import Settings
from service.web.bodies import is_json, media_type, read_json
from service.web.uploads import Limits, open_form

Options = TypeVar("Options", bound=BaseModel)

Source = bytes | str
"""The bytes of a file, or the string of a JSON body, not decoded yet."""


def bytes_of(source: Source) -> bytes:
    """The bytes of an image file.

    Raises: InvalidImage: a string that is no base64; InvalidField: a URL, which is not fetched.
    """
    if isinstance(source, bytes):
        return source
    if source[:8].lower().startswith(("http://", "https://")):
        raise InvalidField("images by URL are switched off on this server: send the image itself")
    if source[:5].lower() == "data:":
        head, comma, source = source.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise InvalidImage("a data URI is written data:image/jpeg;base64,…")
    try:
        # Spaces and line ends are what `base64` prints; the other alphabet is what URLs carry.
        text = "".join(source.split()).translate(_STANDARD_ALPHABET)
        return binascii.a2b_base64(text + "=" * (-len(text) % 4), strict_mode=True)
    except ValueError:  # binascii.Error, or a character outside ASCII
        raise InvalidImage("the string is not base64") from None


_STANDARD_ALPHABET = str.maketrans("-_", "+/")


@dataclass(frozen=True, slots=True)
class ImageRequest(Generic[Options]):
    """The images of one request, in order, and what the JSON body said beside them."""

    sources: list[Source]
    options: Options | None  # None for multipart and bare bytes
    place: tuple[str, ...]  # JSON pointer keys of the list of images
    fields: dict[str, list[str]] = field(default_factory=dict)  # of a form

    def pointer(self, index: int) -> str:
        return pointer_to(*self.place, index) if self.place else ""  # bare bytes are the body itself


WithInput = TypeVar("WithInput", bound=WithImages)


async def read_images(
    request: Request, settings: Settings, model: type[WithInput], *, fields: frozenset[str] = frozenset()
) -> ImageRequest[WithInput]:
    """Read a request in any of the accepted shapes.

    Args:   model: of the JSON shape; fields: parts of a form that are no image.
    Raises: UnsupportedContentType, RequestValidationError, MalformedRequest, InvalidField, TooManyImages,
            BodyTooLarge.
    """
    sources: list[Source]
    if is_json(request):
        body = await read_json(request, model)
        sources = [*body.input]
        read = ImageRequest(sources, body, ("input",))
    elif media_type(request) == "multipart/form-data":
        async with open_form(request, Limits.of(settings, fields)) as form:
            sources = [file.data for file in form.files]
        read = ImageRequest(sources, None, ("file",), form.fields)
    elif media_type(request).startswith("image/"):
        read = ImageRequest([await request.body()], None, ())
    else:
        raise UnsupportedContentType(media_type(request))
    if not read.sources:
        raise InvalidField("the request has no image", pointer=pointer_to(*read.place))
    if len(read.sources) > settings.max_images_per_request:
        raise TooManyImages(limit=settings.max_images_per_request)
    return read
