"""Runs: long work on a task, followed from queued to its end."""

import time
from typing import Annotated

import anyio.to_thread
from fastapi import APIRouter, Header, Response
from fastapi.responses import JSONResponse
from sse_starlette.sse import EventSourceResponse

from models.errors import InvalidOption, NoTail, UntrainableData
from service.errors import (
    InvalidField,
    RunActive,
    RunEnded,
    StrategyNotAvailable,
    TooManyRuns,
    UnknownRun,
    UnknownTask,
)
from service.schemas.examples import ImportItemBody
from service.schemas.pages import After, Limit, PageBody
from service.schemas.runs import CreateRun, RunBody, RunPlan
from service.store.records import TERMINAL_STATES, ImportItem, Run
from service.web import events
from service.web.dependencies import CallerDep, NotesDep, PartsDep, RunDep, TaskDep, TenantDep, WaitDep
from service.web.planning import describe, plan, queue
from service.web.preferences import ended
from service.web.problems import responses

router = APIRouter(tags=["runs"])

POLL_AFTER_S = 1  # what a client is told to wait before it asks for a run again


def answer_run(run: Run, wait_s: int | None) -> Response:
    """202 with where to look, or 200 for a run that has ended."""
    over = run.state in TERMINAL_STATES
    headers = {"Location": f"/v1/runs/{run.id}"}
    if not over:
        headers["Retry-After"] = str(POLL_AFTER_S)
    if wait_s is not None:
        headers["Preference-Applied"] = f"wait={wait_s}"
    body = RunBody.of(run).model_dump(mode="json")
    return JSONResponse(body, 200 if over else 202, headers=headers)


@router.post(
    "/v1/tasks/{task}/runs",
    status_code=202,
    operation_id="create_run",
    response_model=RunBody,
    responses=responses(
        UnknownTask,
        RunActive,
        InvalidField,
        StrategyNotAvailable,
        InvalidOption,
        NoTail,
        UntrainableData,
        TooManyRuns,
        also={200: {"model": RunBody | RunPlan, "description": "Ended already, reused, or a dry run's plan"}},
    ),
)
async def create(body: CreateRun, task: TaskDep, parts: PartsDep, wait: WaitDep, notes: NotesDep) -> Response:
    """Train the task on the examples that it has now. A head takes about a second."""
    planned = await anyio.to_thread.run_sync(plan, parts, task, body)
    if body.dry_run:
        notes["unchanged"] = True
        described = await anyio.to_thread.run_sync(describe, parts, planned)
        return JSONResponse(described.model_dump(mode="json"))
    run = await anyio.to_thread.run_sync(queue, parts, planned, time.time())
    notes |= {"strategy": body.strategy, "publish": body.publish}
    if run.reused:
        notes |= {"version": run.version, "published": run.published}
    return answer_run(await ended(parts, run, wait), wait)


@router.get("/v1/tasks/{task}/runs", operation_id="list_task_runs", responses=responses(UnknownTask))
def list_of_task(task: TaskDep, parts: PartsDep, limit: Limit = 50, after: After = None) -> PageBody[RunBody]:
    """The runs of one task, newest first."""
    page = parts.store.runs.list(task.tenant, task_id=task.id, limit=limit, after=after)
    return PageBody[RunBody].of(page, RunBody.of)


@router.get("/v1/runs", operation_id="list_runs", responses=responses(InvalidField))
def list_all(tenant: TenantDep, parts: PartsDep, limit: Limit = 50, after: After = None) -> PageBody[RunBody]:
    """All runs, newest first."""
    return PageBody[RunBody].of(parts.store.runs.list(tenant, limit=limit, after=after), RunBody.of)


@router.get("/v1/runs/{run}", operation_id="get_run", response_model=RunBody, responses=responses(UnknownRun))
async def get(run: RunDep, parts: PartsDep, wait: WaitDep) -> Response:
    """A run as it stands; with `Prefer: wait=30`, once it has ended."""
    answer = answer_run(await ended(parts, run, wait), wait)
    answer.status_code = 200
    return answer


@router.get(
    "/v1/runs/{run}/results", operation_id="list_run_results", responses=responses(UnknownRun, InvalidField)
)
def results(run: RunDep, parts: PartsDep, limit: Limit = 50, after: After = None) -> PageBody[ImportItemBody]:
    """What became of each member of an imported archive, in its order."""
    return PageBody[ImportItemBody].of(parts.store.runs.items(run.id, limit=limit, after=after), _item)


@router.post(
    "/v1/runs/{run}/cancel",
    status_code=202,
    operation_id="cancel_run",
    response_model=RunBody,
    responses=responses(UnknownRun, RunEnded, also={200: {"model": RunBody, "description": "Cancelled"}}),
)
async def cancel(run: RunDep, parts: PartsDep, wait: WaitDep) -> Response:
    """End a run: at once if it is queued, else as soon as its trainer hears of it."""
    asked = await anyio.to_thread.run_sync(parts.store.runs.cancel, run.tenant, run.id)
    if asked.state in TERMINAL_STATES:  # no trainer has seen it, so none will tidy up after it
        await anyio.to_thread.run_sync(parts.store.discard_archive, asked)
    return answer_run(await ended(parts, asked, wait), wait)


@router.get(
    "/v1/runs/{run}/events",
    operation_id="stream_run_events",
    response_class=EventSourceResponse,
    responses=responses(
        UnknownRun,
        also={
            200: {
                "description": "Server-sent events `state` and `progress`, until the run ends",
                "content": {
                    "text/event-stream": {"example": 'id: 1\nevent: state\ndata: {"state": "queued"}\n\n'}
                },
            },
            204: {"description": "Nothing comes after the event that was named"},
        },
    ),
)
async def follow(
    run: RunDep,
    parts: PartsDep,
    caller: CallerDep,
    last_event_id: Annotated[
        str | None, Header(alias="Last-Event-ID", description="Resume after it.")
    ] = None,
) -> Response:
    """Follow a run live. A client that reconnects after the end gets 204, and stops."""
    after = events.last_event_id(last_event_id)
    if last_event_id is not None:
        new, over = await anyio.to_thread.run_sync(events.read_events, parts, run, after)
        if over and not new:
            return Response(status_code=204)
    # On SIGTERM the stream sees `draining` and ends; without a grace it would be cut off in mid-body.
    return EventSourceResponse(events.stream(parts, run, after, caller), sep="\n", shutdown_grace_period=5)


def _item(item: ImportItem) -> ImportItemBody:
    return ImportItemBody(
        index=item.index, filename=item.filename, id=item.example_id, status=item.status, error=item.error
    )
