"""The one frozen network, as a description and as a file."""

from fastapi import APIRouter
from fastapi.responses import FileResponse

from service.schemas.backbone import BackboneBody
from service.web.dependencies import PartsDep

router = APIRouter(prefix="/v1/backbone", tags=["backbone"])


@router.get("", operation_id="get_backbone")
def describe(parts: PartsDep) -> BackboneBody:
    """What turns pixels into embeddings here, and the digest that heads are tied to."""
    return BackboneBody.of(parts.identity, runtime=parts.runtime)


@router.get(
    "/backbone.onnx",
    operation_id="download_backbone",
    response_class=FileResponse,
    responses={
        200: {
            "description": "ONNX: pixels to embedding and stages",
            "content": {"application/octet-stream": {}},
        }
    },
)
def download(parts: PartsDep) -> FileResponse:
    """Pixels uint8 (N, H, W, C) to `embedding` and stage outputs: run any head of this digest behind it."""
    return FileResponse(
        parts.backbone_file,
        filename="backbone.onnx",
        media_type="application/octet-stream",
        headers={"ETag": f'"{parts.identity.digest}"'},
    )
