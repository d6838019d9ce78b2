"""Embeddings of images, in OpenAI's shape."""

import base64
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Query, Request

from models.arrays import FloatArray
from models.errors import ImageTooLarge, InvalidImage, UnsupportedImage
from models.identity import BackboneIdentity
from service.errors import (
    BodyTooLarge,
    DeadlineExceeded,
    InvalidField,
    MalformedRequest,
    Overloaded,
    TooManyImages,
    UnsupportedContentType,
    WorkerFailed,
)
from service.schemas.bodies import EMBED
from service.schemas.embeddings import CreateEmbeddings, Embedding, Embeddings, EncodingFormat
from service.web.dependencies import PartsDep, TenantDep
from service.web.images import read_images
from service.web.predicting import admit, ask, backbone_size, decode
from service.web.problems import EveryItemFailed, responses

router = APIRouter(prefix="/v1/embeddings", tags=["embeddings"])


@router.post(
    "",
    operation_id="create_embeddings",
    openapi_extra=EMBED,
    responses=responses(
        MalformedRequest, BodyTooLarge, TooManyImages, ImageTooLarge, UnsupportedContentType,
        UnsupportedImage, InvalidImage, InvalidField, Overloaded, WorkerFailed, DeadlineExceeded,
    ),
)  # fmt: skip
async def create(
    request: Request,
    parts: PartsDep,
    tenant: TenantDep,
    encoding_format: Annotated[EncodingFormat, Query(description="Of a form or bare bytes.")] = "float",
    normalize: Annotated[bool, Query(description="Of a form or bare bytes.")] = False,  # noqa: FBT002
) -> Embeddings:
    """Embed images with the frozen backbone: all of them, or none and an error that names each bad one."""
    if parts.embedding_cache is None:  # else the images may be known, and need nobody
        admit(parts)
    read = await read_images(request, parts.settings, CreateEmbeddings)
    if read.options is not None:
        _check(read.options, parts.identity)
        encoding_format, normalize = read.options.encoding_format, read.options.normalize
    images = await decode(parts, read, known_to=tenant)
    if images.errors:
        raise EveryItemFailed([(read.pointer(index), error) for index, error in images.errors.items()])
    answer = await ask(parts, images, backbone_size(parts), embeddings=True)
    assert answer.embeddings is not None
    vectors = _normalized(answer.embeddings) if normalize else answer.embeddings
    data = [
        Embedding(index=index, embedding=_encoded(row, encoding_format)) for index, row in enumerate(vectors)
    ]
    return Embeddings(data=data, model=parts.identity.name)


def _check(said: CreateEmbeddings, identity: BackboneIdentity) -> None:
    """Raises: InvalidField."""
    if said.model not in {None, identity.name, identity.digest}:
        raise InvalidField(f"this server's model is {identity.name!r}", pointer="/model")
    if said.dimensions not in {None, identity.embedding_dim}:
        raise InvalidField(f"embeddings have {identity.embedding_dim} dimensions here", pointer="/dimensions")


def _normalized(vectors: FloatArray) -> FloatArray:
    """(N, D) to length 1; a vector of zeros stays."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths == 0, 1, lengths), dtype=np.float32)


def _encoded(row: FloatArray, encoding_format: EncodingFormat) -> list[float] | str:
    if encoding_format == "base64":
        return base64.b64encode(row.astype("<f4", copy=False).tobytes()).decode()
    values: list[float] = row.tolist()
    return values
