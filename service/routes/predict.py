"""Predictions: one task's, or many tasks' on the same images."""

import uuid
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from models.errors import BackboneMismatch, ImageTooLarge, InvalidImage, PolyheadError, UnsupportedImage
from service.errors import (
    BodyTooLarge,
    DeadlineExceeded,
    InvalidField,
    MalformedRequest,
    NothingPublished,
    Overloaded,
    TooManyImages,
    UnknownAlias,
    UnknownTask,
    UnknownVersion,
    UnsupportedContentType,
    WorkerFailed,
)
from service.schemas.bodies import FAN_OUT, PREDICT
from service.schemas.predictions import FanOutPredictions, PredictBody, Predictions
from service.web.dependencies import PartsDep, TenantDep
from service.web.direct import DirectRoute, json_response
from service.web.fanout import fan_out, read_fan_out, status_of
from service.web.images import read_images
from service.web.predicting import Shape, admit, ask, decode, head_of, known_to, predictions, size_for
from service.web.problems import responses
from service.web.resolver import Target

router = APIRouter(tags=["predictions"], route_class=DirectRoute)

ERRORS = (
    MalformedRequest, UnknownTask, UnknownAlias, UnknownVersion, NothingPublished, BackboneMismatch,
    BodyTooLarge, TooManyImages, ImageTooLarge, UnsupportedContentType, UnsupportedImage, InvalidImage,
    InvalidField, Overloaded, WorkerFailed, DeadlineExceeded,
)  # fmt: skip

TopK = Annotated[
    int | None,
    Query(ge=1, le=10_000, description="Scores listed; multiclass 5 and multilabel all, unless said."),
]
Threshold = Annotated[
    float | None,
    Query(
        ge=0,
        le=1,
        description="Multiclass: below it the label is null. Multilabel: instead of the version's.",
    ),
]


@router.post(
    "/v1/tasks/{task}/predict",
    operation_id="predict",
    response_model=Predictions,
    openapi_extra=PREDICT,
    responses=responses(*ERRORS, also={207: {"model": Predictions, "description": "Some images failed"}}),
)
async def predict(
    *,
    request: Request,
    task: str,
    parts: PartsDep,
    tenant: TenantDep,
    version: Annotated[int | None, Query(ge=1, lt=2**31)] = None,
    alias: Annotated[str | None, Query(max_length=63, description="Default: `production`.")] = None,
    top_k: TopK = None,
    threshold: Threshold = None,
) -> Response:
    """Classify images with a task's current version, or another that is named."""
    if version is not None and alias is not None:
        raise InvalidField("name a version or an alias, not both")
    resolved = await parts.resolver.resolve(tenant, Target.of(task, alias=alias, version=version))
    size = size_for(parts, resolved)
    admit(parts)
    read = await read_images(request, parts.settings, PredictBody)
    images = await decode(parts, read, [size], known_to=known_to(tenant, [resolved]))
    answer = await ask(parts, images, size, [head_of(resolved)])
    (outputs,) = answer.outputs
    if isinstance(outputs, PolyheadError):
        raise outputs
    said: Predictions = {
        "id": new_id(),
        "task": resolved.task_name,
        "version": resolved.version,
        "predictions": predictions(resolved, images, outputs, Shape(top_k, threshold)),
    }
    status = 207 if images.errors else 200
    return json_response(said, status, {"X-Head-Version": str(resolved.version)})


@router.post(
    "/v1/predict",
    operation_id="predict_many",
    response_model=FanOutPredictions,
    openapi_extra=FAN_OUT,
    responses=responses(
        *ERRORS, also={207: {"model": FanOutPredictions, "description": "Some tasks or images failed"}}
    ),
)
async def predict_many(
    *,
    request: Request,
    parts: PartsDep,
    tenant: TenantDep,
    top_k: TopK = None,
    threshold: Threshold = None,
) -> Response:
    """Ask many tasks about the same images: each image passes the backbone once. A bad task fails alone."""
    admit(parts)
    tasks, read = await read_fan_out(request, parts.settings)
    resolved = await parts.resolver.resolve_all(tenant, [Target.parse(task) for task in tasks])
    results, images = await fan_out(parts, tasks, resolved, read, Shape(top_k, threshold), tenant=tenant)
    said: FanOutPredictions = {"id": new_id(), "results": results}
    return json_response(said, status_of(results, images))


def new_id() -> str:
    return f"pred_{uuid.uuid4().hex}"
