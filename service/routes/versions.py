"""Versions: trained heads with their evidence and their files."""

from functools import partial

from fastapi import APIRouter, Response
from fastapi.responses import StreamingResponse

from models.errors import BackboneMismatch
from service.errors import InvalidField, NoFactors, OwnsNetwork, UnknownBlob, UnknownTask, UnknownVersion
from service.schemas.pages import After, Limit, PageBody
from service.schemas.versions import Mistake, VersionBody
from service.store.records import Task, Version
from service.web.dependencies import PartsDep, TaskDep, VersionNumber
from service.web.mistakes import mistakes_of
from service.web.parts import Parts
from service.web.problems import responses

router = APIRouter(prefix="/v1/tasks/{task}/versions", tags=["versions"])

BYTES = "application/octet-stream"
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
                "content": {BYTES: {}},
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
    return _stream(parts, found.head_key, _headers(task, found, "head.onnx", etag=found.head_digest))


@router.get(
    "/{version}/model.onnx",
    operation_id="download_model",
    response_class=Response,
    responses=responses(
        *FILE_ERRORS,
        also={200: {"description": "ONNX: pixels to logits and probabilities", "content": {BYTES: {}}}},
    ),
)
def model(version: VersionNumber, task: TaskDep, parts: PartsDep) -> Response:
    """All in one file: `pixels` uint8 (N, H, W, C) to the same outputs.

    Of a version that averages over views, it runs each of them: `passes` in its metadata says how many. Of
    one that owns its network, the file that is served, whatever backbone this server has.
    """
    found = parts.store.versions.get(task, version)
    if not found.shares_backbone:
        headers = _headers(task, found, "model.onnx", etag=found.head_digest)
        return _stream(parts, found.head_key, headers)
    if found.backbone_digest != parts.identity.digest:
        raise BackboneMismatch(fitted_on=found.backbone_digest, serving=parts.identity.digest)
    # Late, because they bring onnxruntime, which no other request needs.
    from models.averaging import averaged  # noqa: PLC0415
    from models.export import model_onnx  # noqa: PLC0415

    composed = model_onnx(parts.backbone_file, parts.store.blobs.get(found.head_key))
    if len(found.views) > 1:
        composed = averaged(composed, found.views)
    etag = f"{found.head_digest}-{found.backbone_digest}"
    return Response(composed, media_type=BYTES, headers=_headers(task, found, "model.onnx", etag=etag))


@router.get(
    "/{version}/factors.safetensors",
    operation_id="download_factors",
    response_class=StreamingResponse,
    responses=responses(
        *(UnknownTask, UnknownVersion, UnknownBlob, NoFactors),
        also={200: {"description": "safetensors: low-rank factors and their head", "content": {BYTES: {}}}},
    ),
)
def factors(version: VersionNumber, task: TaskDep, parts: PartsDep) -> Response:
    """What strategy `lora` has trained: factors and head, with rank, alpha, stage and layers as metadata.

    A layer's weight is the backbone's, plus alpha / rank times `lora_B @ lora_A`.
    """
    found = parts.store.versions.get(task, version)
    if found.factors_key is None:
        raise NoFactors(task.name, version)
    digest = found.factors_key.rpartition("/")[2][:64]
    return _stream(parts, found.factors_key, _headers(task, found, "factors.safetensors", etag=digest))


def _stream(parts: Parts, key: str, headers: dict[str, str]) -> Response:
    stream = parts.store.blobs.open_stream(key)
    headers["Content-Length"] = str(stream.size)
    return StreamingResponse(stream.chunks, media_type=BYTES, headers=headers)


def _body(parts: Parts, task: Task, version: Version) -> VersionBody:
    return VersionBody.of(task, version, backbone_bytes=parts.backbone_file.stat().st_size)


def _headers(task: Task, version: Version, file: str, *, etag: str) -> dict[str, str]:
    return {
        "ETag": f'"{etag}"',
        "Content-Disposition": f'attachment; filename="{task.name}-{version.number}-{file}"',
        "X-Head-Version": str(version.number),
    }
