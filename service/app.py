"""The HTTP app: routes, errors and middlewares around the parts of one process. Knows no concrete part."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.middleware.cors import CORSMiddleware

from service.routes import ROUTERS
from service.settings import Settings
from service.web import openapi, problems
from service.web.access import REQUEST_ID, AccessMiddleware
from service.web.audit import AuditMiddleware
from service.web.authentication import AuthenticationMiddleware
from service.web.idempotency import IdempotencyMiddleware
from service.web.limits import BodyLimitMiddleware
from service.web.parts import OpenParts, Parts
from service.web.turns import TurnsMiddleware

EXPOSED = (
    "Location",
    "ETag",
    "Retry-After",
    "X-Head-Version",
    REQUEST_ID,
    "Preference-Applied",
    "Idempotent-Replayed",
    "Content-Disposition",
    "WWW-Authenticate",
)


def create_app(settings: Settings, open_parts: OpenParts) -> FastAPI:
    """Compose the app; `open_parts` is entered where the app is started, after any fork."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_parts(app) as parts:
            app.state.parts = parts
            yield

    # /docs with Swagger UI's files beside it: most servers' users reach no CDN.
    app = FastAPIOffline(redoc_url=None, **openapi.ABOUT, lifespan=lifespan, redirect_slashes=False)
    problems.add_handlers(app)
    for router in ROUTERS:
        app.include_router(router)
    openapi.describe(app)
    # The last one added is the outermost.
    app.add_middleware(IdempotencyMiddleware)
    app.add_middleware(BodyLimitMiddleware, settings=settings)
    app.add_middleware(AuditMiddleware)
    routes = [route for router in ROUTERS for route in router.routes]
    app.add_middleware(AuthenticationMiddleware, settings=settings, routes=routes)
    app.add_middleware(AccessMiddleware)
    app.add_middleware(TurnsMiddleware)
    if settings.allow_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.allow_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=EXPOSED,
        )
    return app


def openapi_schema() -> dict[str, Any]:
    """The OpenAPI document, without starting anything."""
    return create_app(Settings.model_construct(allow_origins=()), _nothing).openapi()


@asynccontextmanager
async def _nothing(_app: FastAPI) -> AsyncIterator[Parts]:
    raise NotImplementedError
    yield
