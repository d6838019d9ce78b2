"""Tasks: what an app has registered to be taught."""

import time

from fastapi import APIRouter, Response

from service.errors import ClassInUse, InvalidField, QuotaExceeded, StaleETag, TaskExists, UnknownTask
from service.schemas.pages import After, Limit, PageBody
from service.schemas.tasks import CreateTask, TaskBody, UpdateTask
from service.store.records import Task
from service.web.dependencies import IfMatchDep, IfNoneMatchDep, NotesDep, PartsDep, TaskDep, TenantDep
from service.web.etags import etag_of, is_known
from service.web.parts import Parts
from service.web.problems import responses

router = APIRouter(prefix="/v1/tasks", tags=["tasks"])


def _shown(parts: Parts, task: Task, response: Response) -> TaskBody:
    """A task with its counts, and its ETag among the headers."""
    response.headers["ETag"] = etag_of(task.revision)
    return TaskBody.of(task, parts.store.tasks.summary(task, parts.identity.digest))


@router.post(
    "",
    status_code=201,
    operation_id="create_task",
    responses=responses(QuotaExceeded, TaskExists, InvalidField),
)
def create(body: CreateTask, parts: PartsDep, tenant: TenantDep, response: Response) -> TaskBody:
    """Register a task: its name, and what kind of answer it gives."""
    task = parts.store.tasks.create(
        tenant, body.name, body.kind, body.classes, description=body.description, now=time.time()
    )
    response.headers["Location"] = f"/v1/tasks/{task.name}"
    return _shown(parts, task, response)


@router.get("", operation_id="list_tasks", responses=responses(InvalidField))
def list_all(
    parts: PartsDep, tenant: TenantDep, limit: Limit = 50, after: After = None
) -> PageBody[TaskBody]:
    """The tasks, newest first."""
    page = parts.store.tasks.list(tenant, limit=limit, after=after)
    summaries = parts.store.tasks.summaries(page.data, parts.identity.digest)
    return PageBody[TaskBody].of(page, lambda task: TaskBody.of(task, summaries[task.id]))


@router.get(
    "/{task}",
    operation_id="get_task",
    response_model=TaskBody,
    responses=responses(UnknownTask, also={304: {"description": "Not changed"}}),
)
def get(
    task: TaskDep, parts: PartsDep, response: Response, if_none_match: IfNoneMatchDep = None
) -> TaskBody | Response:
    """One task, with how much it holds and whether it needs training."""
    if is_known(if_none_match, task.revision):
        return Response(status_code=304, headers={"ETag": etag_of(task.revision)})
    return _shown(parts, task, response)


@router.patch(
    "/{task}",
    operation_id="update_task",
    responses=responses(UnknownTask, ClassInUse, StaleETag, InvalidField),
)
def update(
    *,
    body: UpdateTask,
    task: TaskDep,
    parts: PartsDep,
    if_match: IfMatchDep,
    notes: NotesDep,
    response: Response,
) -> TaskBody:
    """Change the description or the classes. Published versions keep the labels they were trained with."""
    changed = parts.store.tasks.update(
        task.tenant,
        task.name,
        description=body.description,
        add_classes=body.add_classes,
        rename_classes=body.rename_classes,
        remove_classes=body.remove_classes,
        if_match=if_match.check(task.revision),
        now=time.time(),
    )
    notes["fields"] = sorted(body.model_fields_set)
    return _shown(parts, changed, response)


@router.delete(
    "/{task}", status_code=204, operation_id="delete_task", responses=responses(UnknownTask, StaleETag)
)
def delete(task: TaskDep, parts: PartsDep, if_match: IfMatchDep) -> None:
    """Delete a task with its examples, runs and versions, for good. A run of it ends."""
    parts.store.tasks.delete(task.tenant, task.name, if_match=if_match.check(task.revision))
    parts.resolver.forget(task.tenant, task.name)
