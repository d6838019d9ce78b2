"""What the body of an upload says, in each of its forms: images with their labels, or one archive."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import Request

from service.errors import InvalidField, TooManyImages, UnsupportedContentType
from service.labelling import check_fits, split_of_form, target_of_body, target_of_form
from service.schemas.examples import AddedExample, AddedExamples, AddExamples, AddSummary, NewExampleBody
from service.schemas.problems import describe, pointer_to
from service.settings import Settings
from service.store.records import AddResult, Task
from service.web.bodies import is_json, media_type, read_json
from service.web.intake import Submitted
from service.web.problems import EveryItemFailed
from service.web.uploads import ARCHIVE, FILE, ArchivePart, Form, Limits, open_form

FIELDS = frozenset({"label", "group", "split"})


@dataclass(frozen=True, slots=True)
class Upload:
    images: list[Submitted]
    place: str  # JSON pointer of the list of images
    archive: ArchivePart | None = None  # its file is there while the upload is open

    def answer(self, results: list[AddResult]) -> tuple[int, AddedExamples]:
        """Status and body for what became of the images.

        Raises: EveryItemFailed.
        """
        failures = [(self.pointer(index), result.error) for index, result in enumerate(results)]
        errors = [(pointer, error) for pointer, error in failures if error is not None]
        if len(errors) == len(results):
            raise EveryItemFailed(errors)
        statuses = [result.status for result in results]
        summary = AddSummary(
            created=statuses.count("created"),
            duplicate=statuses.count("duplicate"),
            conflict=statuses.count("conflict"),
            failed=statuses.count(None),
        )
        status = 207 if errors else 201 if summary.created else 200
        data = [self._added(index, result) for index, result in enumerate(results)]
        return status, AddedExamples(data=data, summary=summary)

    def pointer(self, index: int) -> str:
        return self.place + pointer_to(index)

    def _added(self, index: int, result: AddResult) -> AddedExample:
        return AddedExample(
            index=index,
            filename=self.images[index].filename,
            id=result.example_id,
            status=result.status,
            error=None if result.error is None else describe(result.error, pointer=self.pointer(index)),
        )


@asynccontextmanager
async def open_upload(request: Request, task: Task, settings: Settings) -> AsyncIterator[Upload]:
    """Read an upload in any of the accepted shapes.

    Raises: UnsupportedContentType, RequestValidationError, MalformedRequest, InvalidField, TooManyImages,
            BodyTooLarge, StoreFull.
    """
    if is_json(request):
        body = await read_json(request, AddExamples)
        yield _checked(Upload([_from_body(item) for item in body.examples], "/examples"), settings)
    elif media_type(request) == "multipart/form-data":
        async with open_form(request, Limits.of(settings, FIELDS, archive=True)) as form:
            yield _checked(_from_form(form, task), settings)
    else:
        raise UnsupportedContentType(media_type(request))


def _checked(upload: Upload, settings: Settings) -> Upload:
    if not upload.images and upload.archive is None:
        raise InvalidField("the request has no image", pointer=upload.place)
    if len(upload.images) > settings.max_images_per_request:
        raise TooManyImages(limit=settings.max_images_per_request)
    return upload


def _from_body(item: NewExampleBody) -> Submitted:
    try:
        labels, value = target_of_body(item)
    except InvalidField as error:  # this image's alone
        return Submitted(source=item.image, filename=item.filename, refused=error)
    return Submitted(
        source=item.image,
        filename=item.filename,
        labels=labels,
        value=value,
        group=item.group,
        split=item.split,
    )


def _from_form(form: Form, task: Task) -> Upload:
    """A form's label, group and split are those of every file in it."""
    if form.archive is not None:
        if form.files or form.fields:
            raise InvalidField(
                "an archive comes alone: its folders or its metadata say the labels", pointer=f"/{ARCHIVE}"
            )
        return Upload([], f"/{ARCHIVE}", form.archive)
    labels, value = target_of_form(task.kind, form.fields.get("label", []))
    check_fits(task, labels, value)
    said: dict[str, Any] = {
        "labels": labels,
        "value": value,
        "group": form.one("group"),
        "split": split_of_form(form.one("split")),
    }
    images = [Submitted(source=file.data, filename=file.filename, **said) for file in form.files]
    return Upload(images, f"/{FILE}")
