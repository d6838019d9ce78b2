"""Many tasks, the same images: one pass through the backbone, then every head."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import Request

from models.arrays import FloatArray
from models.errors import PolyheadError
from service.engine import HeadRef
from service.errors import DeadlineExceeded, InvalidField, UnsupportedContentType
from service.schemas.predictions import MAX_TASK_CHARACTERS, MAX_TASKS, FanOutBody, FanOutResult
from service.schemas.problems import describe, pointer_to
from service.settings import Settings
from service.store.records import Resolved
from service.web.bodies import is_json, media_type
from service.web.images import ImageRequest, read_images
from service.web.parts import Parts
from service.web.predicting import Decoded, Shape, ask, decode, head_of, known_to, predictions, size_for
from service.web.problems import EveryItemFailed


async def read_fan_out(request: Request, settings: Settings) -> tuple[list[str], ImageRequest[FanOutBody]]:
    """The tasks, each once, and the images of a request.

    Raises: as `read_images`; InvalidField: no task is named, or too many are, or at too great a length.
    """
    if not is_json(request) and media_type(request) != "multipart/form-data":
        raise UnsupportedContentType(media_type(request))
    read = await read_images(request, settings, FanOutBody, fields=frozenset({"tasks"}))
    said = read.fields.get("tasks", []) if read.options is None else read.options.tasks
    tasks = list(dict.fromkeys(said))
    if not 0 < len(tasks) <= MAX_TASKS:
        raise InvalidField(f"name 1 to {MAX_TASKS} tasks", pointer="/tasks")
    if any(len(task) > MAX_TASK_CHARACTERS for task in tasks):
        raise InvalidField(f"a task is named in at most {MAX_TASK_CHARACTERS} characters", pointer="/tasks")
    return tasks, read


@dataclass(frozen=True, slots=True)
class Question:
    """The tasks that take images of one size."""

    size: int  # pixels
    versions: dict[int, Resolved]  # by place in the request
    heads: tuple[HeadRef, ...]  # of these, in order


async def fan_out(
    parts: Parts,
    tasks: Sequence[str],
    resolved: Sequence[Resolved | PolyheadError],
    read: ImageRequest[FanOutBody],
    shape: Shape,
    *,
    tenant: str,
) -> tuple[list[FanOutResult], Decoded]:
    """One result for each task, in order; and the images that they are of.

    Raises: EveryItemFailed: of the images, or of the tasks; Overloaded, DeadlineExceeded, WorkerFailed.
    """
    by_size: dict[int, dict[int, Resolved]] = {}
    for index, version in enumerate(resolved):
        if isinstance(version, Resolved):
            by_size.setdefault(size_for(parts, version), {})[index] = version
    known = known_to(tenant, (version for versions in by_size.values() for version in versions.values()))
    decoding = asyncio.create_task(decode(parts, read, by_size, known_to=known))
    await asyncio.sleep(0)  # threads decode now, and here is time for what else the worker is to be sent
    questions = [
        Question(size, versions, tuple(map(head_of, versions.values()))) for size, versions in by_size.items()
    ]
    images = await decoding
    outputs = await _outputs(parts, questions, images)
    results, failures = list[FanOutResult](), list[tuple[str, PolyheadError]]()
    for index, (task, version) in enumerate(zip(tasks, resolved, strict=True)):
        answer = outputs[index] if isinstance(version, Resolved) else version
        if isinstance(answer, PolyheadError):
            failures.append((pointer_to("tasks", index), answer))
            results.append({"task": task, "error": describe(answer, pointer=pointer_to("tasks", index))})
        else:
            assert isinstance(version, Resolved)
            made = predictions(version, images, answer, shape)
            results.append({"task": task, "version": version.version, "predictions": made})
    if len(failures) == len(results):
        raise EveryItemFailed(failures)
    return results, images


async def _outputs(
    parts: Parts, questions: Sequence[Question], images: Decoded
) -> dict[int, FloatArray | PolyheadError]:
    """What each known version says, by its place: of one input size together, one size after another.

    Not side by side, where the images of one size would be refused because those of another wait.
    """
    outputs: dict[int, FloatArray | PolyheadError] = {}
    deadline_s = parts.settings.request_deadline_s
    try:
        async with asyncio.timeout(deadline_s):
            for each in questions:
                answer = await ask(parts, images, each.size, each.heads)
                outputs |= zip(each.versions, answer.outputs, strict=True)
    except TimeoutError:
        raise DeadlineExceeded(seconds=deadline_s) from None
    return outputs


def status_of(results: Sequence[FanOutResult], images: Decoded) -> int:
    return 207 if images.errors or any("error" in result for result in results) else 200
