"""What handlers ask for in their signatures."""

from typing import Annotated

from fastapi import Depends, Header, Path, Request

from service.errors import UnknownRun, UnknownTask
from service.store.checks import NAME
from service.store.records import Run, Task
from service.web.audit import Notes, notes_of
from service.web.callers import Caller, caller_of
from service.web.etags import IfMatch, if_match
from service.web.parts import Parts
from service.web.preferences import wait_preference


# Those that don't block are async: FastAPI gives every other one a thread.
async def parts_of(request: Request) -> Parts:
    parts: Parts = request.app.state.parts
    return parts


async def who_asks(request: Request) -> Caller:
    return caller_of(request.scope)


async def tenant_of(request: Request) -> str:
    """Whose data the request is about: its key's, or where keys are off the one tenant that everybody is."""
    return caller_of(request.scope).tenant


PartsDep = Annotated[Parts, Depends(parts_of)]
NotesDep = Annotated[Notes, Depends(notes_of)]
CallerDep = Annotated[Caller, Depends(who_asks)]
TenantDep = Annotated[str, Depends(tenant_of)]


def find_task(
    parts: PartsDep, tenant: TenantDep, task: Annotated[str, Path(description="The task's name.")]
) -> Task:
    """Raises: UnknownTask, also for what can't be a name."""
    if not NAME.fullmatch(task):
        raise UnknownTask(task)
    return parts.store.tasks.get(tenant, task)


def find_run(
    parts: PartsDep, tenant: TenantDep, run: Annotated[str, Path(description="The run's id.")]
) -> Run:
    """Raises: UnknownRun, also for what can't be an id."""
    if not run.isascii() or not run.replace("_", "").isalnum():
        raise UnknownRun(run)
    return parts.store.runs.get(tenant, run)


TaskDep = Annotated[Task, Depends(find_task)]
RunDep = Annotated[Run, Depends(find_run)]
IfMatchDep = Annotated[IfMatch, Depends(if_match)]
WaitDep = Annotated[int | None, Depends(wait_preference)]
VersionNumber = Annotated[int, Path(ge=1, lt=2**31, description="The version's number: 1, 2, 3 …")]
ExampleId = Annotated[str, Path(max_length=64, pattern="^[A-Za-z0-9_]+$", description="The example's id.")]
IfNoneMatchDep = Annotated[
    str | None, Header(alias="If-None-Match", description="ETags that are held already.")
]
