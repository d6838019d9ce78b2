"""Versions: trained heads with their evidence and their files."""

from functools import partial

from fastapi import APIRouter, Response
from fastapi.responses import StreamingResponse

from models.errors import BackboneMismatch
from service.errors import InvalidField, OwnsNetwork, UnknownBlob, UnknownTask, UnknownVersion
from service.schemas.pages import After, Limit, PageBody
from service.schemas.versions import Mistake, VersionBody
from service.store.records import Task, Version
from service.web.dependencies import PartsDep, TaskDep, VersionNumber
from service.web.mistakes import mistakes_of
from service.web.parts import Parts
from service.web.problems import responses

router = APIRouter(prefix="/v1/tasks/{task}/versions", tags=["versions"])

ONNX = "application/octet-stream"
FILE_ERRORS = (UnknownTask, UnknownVersion, UnknownBlob, OwnsNetwork, BackboneMismatch)


@router.get("", operation_id="list_versions", responses=responses(UnknownTask, InvalidField))
def list_all(task: TaskDep, parts: PartsDep, limit: Limit = 50, after: After = None) -> PageBody[VersionBody]:
    """The versions of a task, newest first."""
    page = parts.store.versions.list(task, limit=limit, after=after)
    return PageBody[VersionBody].of(page, partial(_body, parts, task))


@router.get("/{version}", operation_id="get_version", responses=responses(UnknownTask, UnknownVersion))
def get(version: VersionNumber, task: TaskDep, parts: PartsDep) -> VersionBody:
    """One version: how it was made, and how good it is on examples that it never saw."""
    return _body(parts, task, parts.store.versions.get(task, version))


@router.get(
    "/{version}/mistakes",
    operation_id="list_mistakes",
    responses=responses(UnknownTask, UnknownVersion, UnknownBlob, InvalidField),
)
def mistakes(
    version: VersionNumber, task: TaskDep, parts: PartsDep, limit: Limit = 50, after: After = None
) -> PageBody[Mistake]:
    """The evaluated examples that it got wrong, worst loss first; of a regression all, farthest off first."""
    return mistakes_of(parts, task, parts.store.versions.get(task, version), limit=limit, after=after)


@router.get(
    "/{version}/head.onnx",
    operation_id="download_head",
    response_class=StreamingResponse,
    responses=responses(
        *FILE_ERRORS,
        also={
            200: {
                "description": "ONNX: embedding or feature map to logits and probabilities",
                "content": {ONNX: {}},
            }
        },
    ),
)
def head(version: VersionNumber, task: TaskDep, parts: PartsDep) -> Response:
    """The head that is served, as a file: `embedding` to `logits` and `probabilities`, or `value`.

    Of a version with a tail, from the `feature_map` of its `backbone_output`.
    """
    found = parts.store.versions.get(task, version)
    if not found.shares_backbone:
        raise OwnsNetwork(task.name, version)
    stream = parts.store.blobs.open_stream(found.head_key)
    headers = _headers(task, found, "head", etag=found.head_digest)
    headers["Content-Length"] = str(stream.size)
    return StreamingResponse(stream.chunks, media_type=ONNX, headers=headers)


@router.get(
    "/{version}/model.onnx",
    operation_id="download_model",
    response_class=Response,
    responses=responses(
        *FILE_ERRORS,
        also={200: {"description": "ONNX: pixels to logits and probabilities", "content": {ONNX: {}}}},
    ),
)
def model(version: VersionNumber, task: TaskDep, parts: PartsDep) -> Response:
    """Backbone and head in one file: `pixels` uint8 (N, H, W, C) to the same outputs."""
    found = parts.store.versions.get(task, version)
    if found.backbone_digest != parts.identity.digest:
        raise BackboneMismatch(fitted_on=found.backbone_digest, serving=parts.identity.digest)
    # Late, because it brings onnxruntime, which no other request needs.
    from models.export import model_onnx  # noqa: PLC0415

    composed = model_onnx(parts.backbone_file, parts.store.blobs.get(found.head_key))
    etag = f"{found.head_digest}-{found.backbone_digest}"
    return Response(composed, media_type=ONNX, headers=_headers(task, found, "model", etag=etag))


def _body(parts: Parts, task: Task, version: Version) -> VersionBody:
    return VersionBody.of(task, version, backbone_bytes=parts.backbone_file.stat().st_size)


def _headers(task: Task, version: Version, name: str, *, etag: str) -> dict[str, str]:
    return {
        "ETag": f'"{etag}"',
        "Content-Disposition": f'attachment; filename="{task.name}-{version.number}-{name}.onnx"',
        "X-Head-Version": str(version.number),
    }
