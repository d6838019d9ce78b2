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

# Paths are compared in this order: what is asked for most comes first.
ROUTERS: tuple[APIRouter, ...] = (
    predict.router,
    embeddings.router,
    tasks.router,
    examples.router,
    runs.router,
    versions.router,
    aliases.router,
    backbone.router,
    probes.router,
)
