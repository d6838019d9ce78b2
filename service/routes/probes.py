"""What machines ask: is it alive, is it ready, how is it doing."""

from fastapi import APIRouter, Response

from service.errors import NotReady, StoreUnavailable
from service.metrics import CONTENT_TYPE, metrics_text
from service.schemas.probes import Health
from service.web.dependencies import PartsDep
from service.web.problems import responses

router = APIRouter(tags=["probes"])


@router.get("/livez", operation_id="live", responses=responses(NotReady))
async def live(parts: PartsDep) -> Health:
    """A probe job still moves through the inference worker; if not, restart this process."""
    if not await parts.engine.alive():
        raise NotReady("the inference worker makes no progress")
    return Health(status="ok")


@router.get("/readyz", operation_id="ready", responses=responses(NotReady))
async def ready(parts: PartsDep) -> Health:
    """This process can answer predictions. A store out of reach is `degraded`, after it was reached once."""
    if parts.engine.draining:
        raise NotReady("the server is about to stop")
    if not await parts.engine.alive():
        raise NotReady("the inference worker makes no progress")
    reached = await parts.reach.check()
    if reached:
        return Health(status="ok")
    if not parts.reach.once:
        raise StoreUnavailable
    return Health(status="degraded", degraded=["store"])


@router.get(
    "/metrics",
    operation_id="metrics",
    response_class=Response,
    responses={200: {"description": "Prometheus text", "content": {"text/plain": {"example": "# HELP …"}}}},
)
def metrics() -> Response:
    """Counters and histograms of all processes, for Prometheus. No task is named in any."""
    return Response(metrics_text(), media_type=CONTENT_TYPE)
