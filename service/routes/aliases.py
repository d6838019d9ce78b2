"""Aliases: the movable names of versions; `production` is what predict uses."""

import time
from typing import Annotated

from fastapi import APIRouter, Path, Response

from models.errors import BackboneMismatch
from service.errors import InvalidField, StaleETag, UnknownAlias, UnknownTask, UnknownVersion
from service.schemas.aliases import AliasBody, PutAlias
from service.schemas.pages import PageBody
from service.store.checks import NAME
from service.store.records import Alias, Task
from service.web.dependencies import IfMatchDep, IfNoneMatchDep, NotesDep, PartsDep, TaskDep
from service.web.etags import etag_of, is_known
from service.web.parts import Parts
from service.web.problems import responses

router = APIRouter(prefix="/v1/tasks/{task}/aliases", tags=["aliases"])

AliasName = Annotated[str, Path(max_length=63, description="`production`, or a name of your own.")]


@router.get("", operation_id="list_aliases", responses=responses(UnknownTask))
def list_all(task: TaskDep, parts: PartsDep) -> PageBody[AliasBody]:
    """All aliases of a task, by name, on one page."""
    found = parts.store.aliases.list(task, parts.identity.digest)
    return PageBody[AliasBody](data=[AliasBody.of(task, alias) for alias in found], has_more=False, next=None)


@router.put(
    "/{alias}",
    operation_id="put_alias",
    responses=responses(UnknownTask, UnknownVersion, BackboneMismatch, StaleETag, InvalidField),
)
def put(
    *,
    body: PutAlias,
    alias: AliasName,
    task: TaskDep,
    parts: PartsDep,
    if_match: IfMatchDep,
    notes: NotesDep,
    response: Response,
) -> AliasBody:
    """Point an alias at a version: publish it, or roll back. The next prediction uses it."""
    known = _find(parts, task, alias)
    new = parts.store.aliases.put(
        task,
        alias,
        body.version,
        pinned=body.pinned,
        backbone_digest=parts.identity.digest,
        if_match=if_match.check(known.revision if known else None),
        now=time.time(),
    )
    parts.resolver.change(task.tenant, task.name)
    notes |= {"version": new.version, "pinned": new.pinned}
    response.headers["ETag"] = etag_of(new.revision)
    return AliasBody.of(task, new)


@router.get(
    "/{alias}",
    operation_id="get_alias",
    response_model=AliasBody,
    responses=responses(UnknownTask, UnknownAlias, also={304: {"description": "Not changed"}}),
)
def get(
    alias: AliasName, task: TaskDep, parts: PartsDep, response: Response, if_none_match: IfNoneMatchDep = None
) -> AliasBody | Response:
    """Which version an alias names."""
    found = parts.store.aliases.get(task, _name(task, alias), parts.identity.digest)
    if is_known(if_none_match, found.revision):
        return Response(status_code=304, headers={"ETag": etag_of(found.revision)})
    response.headers["ETag"] = etag_of(found.revision)
    return AliasBody.of(task, found)


@router.delete(
    "/{alias}",
    status_code=204,
    operation_id="delete_alias",
    responses=responses(UnknownTask, UnknownAlias, StaleETag),
)
def delete(alias: AliasName, task: TaskDep, parts: PartsDep, if_match: IfMatchDep) -> None:
    """Remove an alias; without `production`, predict answers 409 until there is one again."""
    known = _find(parts, task, alias)
    revision = if_match.check(known.revision if known else None)
    parts.store.aliases.delete(task, _name(task, alias), parts.identity.digest, if_match=revision)
    parts.resolver.forget(task.tenant, task.name)


def _find(parts: Parts, task: Task, alias: str) -> Alias | None:
    try:
        return parts.store.aliases.get(task, alias, parts.identity.digest)
    except UnknownAlias:
        return None


def _name(task: Task, alias: str) -> str:
    """Raises: UnknownAlias for what can't be a name."""
    if not NAME.fullmatch(alias):
        raise UnknownAlias(task.name, alias)
    return alias
