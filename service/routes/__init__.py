"""The HTTP interface, one module a resource; a handler translates, and what it calls decides."""

from fastapi import APIRouter

from service.routes import (
    aliases,
    backbone,
    embeddings,
    examples,
    predict,
    probes,
    runs,
    tasks,
    versions,
)

ROUTERS: tuple[APIRouter, ...] = (
    tasks.router,
    examples.router,
    runs.router,
    versions.router,
    aliases.router,
    predict.router,
    embeddings.router,
    backbone.router,
    probes.router,
)
