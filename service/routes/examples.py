"""Examples: the labelled and unlabelled images that a task is taught with."""

import time
from functools import partial
from typing import Annotated, Any

import anyio.to_thread
from fastapi import APIRouter, Query, Request, Response

from models.errors import ImageTooLarge, InvalidImage, UnsupportedImage
from service.errors import (
    BodyTooLarge,
    InvalidField,
    LabelConflict,
    MalformedRequest,
    QuotaExceeded,
    RunActive,
    StoreFull,
    TooManyImages,
    TooManyRuns,
    UnknownBlob,
    UnknownExample,
    UnknownLabel,
    UnknownTask,
    UnsupportedContentType,
)
from service.labelling import target_of_body
from service.routes.runs import answer_run
from service.schemas.bodies import UPLOAD
from service.schemas.examples import AddedExamples, ExampleBody, Labelling
from service.schemas.pages import After, Limit, PageBody
from service.schemas.runs import RunBody
from service.store.records import UNSET, SplitName
from service.web.dependencies import ExampleId, NotesDep, PartsDep, TaskDep, WaitDep
from service.web.importing import queue_import
from service.web.intake import take_in
from service.web.preferences import ended
from service.web.problems import responses
from service.web.submissions import open_upload

router = APIRouter(prefix="/v1/tasks/{task}/examples", tags=["examples"])


@router.post(
    "",
    status_code=201,
    operation_id="add_examples",
    response_model=AddedExamples,
    openapi_extra=UPLOAD,
    responses=responses(
        MalformedRequest, QuotaExceeded, UnknownTask, LabelConflict, RunActive, BodyTooLarge, TooManyImages,
        ImageTooLarge, UnsupportedContentType, UnsupportedImage, InvalidImage, InvalidField, UnknownLabel,
        TooManyRuns, StoreFull, also={
        200: {"model": AddedExamples, "description": "All were there already"},
        202: {"model": RunBody, "description": "An archive: a run imports it"},
        207: {"model": AddedExamples, "description": "Some failed"},
    }),
)  # fmt: skip
async def add(
    *,
    request: Request,
    response: Response,
    task: TaskDep,
    parts: PartsDep,
    wait: WaitDep,
    notes: NotesDep,
) -> AddedExamples | Response:
    """Upload images with what is said of them, or an archive of labelled ones; one result per image.

    The `label` of a form is every file's: repeat it for several labels, give a number to a regression task,
    leave it out for images that are not labelled yet. Acknowledged images survive a crash.
    """
    async with open_upload(request, task, parts.settings) as upload:
        if upload.archive is not None:
            run = await anyio.to_thread.run_sync(partial(queue_import, parts, task, upload.archive))
        else:
            results = await take_in(parts, task, upload.images, now=time.time())
            response.status_code, body = upload.answer(results)
            notes |= body.summary.model_dump()
            return body
    return answer_run(await ended(parts, run, wait), wait)


@router.get("", operation_id="list_examples", responses=responses(UnknownTask, InvalidField))
def list_all(
    *,
    task: TaskDep,
    parts: PartsDep,
    label: Annotated[str | None, Query(max_length=128)] = None,
    split: SplitName | None = None,
    labelled: bool | None = None,  # FastAPI passes it by name
    group: Annotated[str | None, Query(max_length=256)] = None,
    limit: Limit = 50,
    after: After = None,
) -> PageBody[ExampleBody]:
    """The examples, newest first; filters add up."""
    page = parts.store.examples.list(
        task, label=label, split=split, labelled=labelled, group=group, limit=limit, after=after
    )
    return PageBody[ExampleBody].of(page, partial(ExampleBody.of, task))


@router.get("/{example}", operation_id="get_example", responses=responses(UnknownTask, UnknownExample))
def get(example: ExampleId, task: TaskDep, parts: PartsDep) -> ExampleBody:
    """What is known of one image."""
    return ExampleBody.of(task, parts.store.examples.get(task, example))


@router.patch(
    "/{example}",
    operation_id="update_example",
    responses=responses(UnknownTask, UnknownExample, InvalidField, UnknownLabel),
)
def update(
    body: Labelling, example: ExampleId, task: TaskDep, parts: PartsDep, notes: NotesDep
) -> ExampleBody:
    """Relabel: a field that is absent stays, null takes it away."""
    changed = parts.store.examples.update(task, example, **_changes(body), now=time.time())
    notes["fields"] = sorted(body.model_fields_set)
    return ExampleBody.of(task, changed)


@router.delete(
    "/{example}",
    status_code=204,
    operation_id="delete_example",
    responses=responses(UnknownTask, UnknownExample),
)
def delete(example: ExampleId, task: TaskDep, parts: PartsDep) -> None:
    """Delete an image and what is said of it, for good."""
    parts.store.examples.delete(task, example)


@router.get(
    "/{example}/image",
    operation_id="get_example_image",
    response_class=Response,
    responses=responses(
        UnknownTask,
        UnknownExample,
        UnknownBlob,
        also={
            200: {
                "description": "The bytes as they were uploaded",
                "content": {"image/jpeg": {}, "image/png": {}, "image/webp": {}},
            }
        },
    ),
)
def image(example: ExampleId, task: TaskDep, parts: PartsDep) -> Response:
    """The image itself."""
    found = parts.store.examples.get(task, example)
    headers = {"X-Content-Type-Options": "nosniff", "ETag": f'"{found.image_digest}"'}
    return Response(parts.store.blobs.get(found.blob_key), media_type=found.media_type, headers=headers)


def _changes(body: Labelling) -> dict[str, Any]:
    """The arguments of an update.

    Raises: InvalidField.
    """
    said = body.model_fields_set
    labels, value = target_of_body(body)
    return {
        "labels": labels if said & {"label", "labels"} else UNSET,
        "value": value if "value" in said else UNSET,
        "group": body.group if "group" in said else UNSET,
        "split": body.split if "split" in said else UNSET,
    }
