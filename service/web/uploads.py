"""Multipart bodies, read with every bound that starlette leaves open.

Images are kept in memory, since they are decoded from there; an archive is written to a temporary file as it
arrives. Parts that no route reads are refused, so that a misspelt name is an error and not silence.
"""

import errno
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, cast

import anyio.to_thread
from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from service.errors import BodyTooLarge, InvalidField, MalformedRequest, StoreFull, TooManyImages
from service.settings import Settings

MAX_FIELDS = 1000  # parts that are no file, e.g. labels of a multilabel example
MAX_FIELD_BYTES = 64 * 1024
FILE = "file"
ARCHIVE = "archive"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one form may hold."""

    images: int
    image_bytes: int  # of all image files together
    archive_bytes: int  # 0: the route takes no archive
    fields: frozenset[str]  # names of parts that are no file

    @classmethod
    def of(cls, settings: Settings, fields: frozenset[str], *, archive: bool = False) -> "Limits":
        return cls(
            images=settings.max_images_per_request,
            image_bytes=settings.max_request_bytes,
            archive_bytes=settings.max_archive_bytes if archive else 0,
            fields=fields,
        )


@dataclass(frozen=True, slots=True)
class FilePart:
    filename: str | None
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ArchivePart:
    filename: str | None
    path: Path  # there while the form is open


@dataclass(frozen=True, slots=True)
class Form:
    files: list[FilePart]
    archive: ArchivePart | None
    fields: dict[str, list[str]]  # in order of arrival

    def one(self, name: str) -> str | None:
        """The value of a field that may be given once.

        Raises: InvalidField: it is given twice.
        """
        values = self.fields.get(name, [])
        if len(values) > 1:
            raise InvalidField(f"{name!r} is given {len(values)} times", pointer=f"/{name}")
        return values[0] if values else None


@asynccontextmanager
async def open_form(request: Request, limits: Limits) -> AsyncIterator[Form]:
    """Read a multipart body; its archive, if any, is deleted on leaving.

    Raises: MalformedRequest, InvalidField, TooManyImages, BodyTooLarge, StoreFull.
    """
    parser = _Parser(request, limits)
    try:
        parts = await parser.parse()
    except MultiPartException as error:
        raise MalformedRequest(f"the multipart body can't be read: {error.message}") from error
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            raise StoreFull from error
        raise
    try:
        if not parser.complete:
            raise MalformedRequest("the multipart body ends before its last boundary")
        yield await _form(parts.multi_items())
    finally:
        parser.close()


async def _form(items: list[tuple[str, UploadFile | str]]) -> Form:
    form = Form([], None, {})
    for name, value in items:
        if isinstance(value, str):
            form.fields.setdefault(name, []).append(value)
        elif name == FILE:
            form.files.append(FilePart(value.filename or None, await value.read()))
        else:
            await anyio.to_thread.run_sync(value.file.flush)
            form = Form(form.files, ArchivePart(value.filename or None, Path(value.file.name)), form.fields)
    return form


class _Parser(MultiPartParser):
    """Starlette's parser, which leaves the sizes of files, their names and the body's end unchecked."""

    # LitServe sets the parent's to sys.maxsize. A phone's photo stays in memory, where it is needed next.
    spool_max_size = 16 * 1024 * 1024

    def __init__(self, request: Request, limits: Limits) -> None:
        super().__init__(
            request.headers,
            request.stream(),
            max_files=limits.images + 2,
            max_fields=MAX_FIELDS,
            max_part_size=MAX_FIELD_BYTES,
        )
        self.complete = False  # the closing boundary was seen
        self._limits = limits
        self._images = 0
        self._archives = 0
        self._image_bytes = 0
        self._archive_bytes = 0

    def close(self) -> None:
        """Close every file, also of a part that has no end."""
        for file in self._files_to_close_on_error:
            file.close()

    def on_headers_finished(self) -> None:
        super().on_headers_finished()
        part = self._current_part
        name = part.field_name
        if part.file is None:
            self._check_field(name)
        elif name == FILE:
            self._images += 1
            if self._images > self._limits.images:
                raise TooManyImages(limit=self._limits.images)
        elif name == ARCHIVE and self._limits.archive_bytes:
            self._archives += 1
            if self._archives > 1:
                raise InvalidField("one archive is read in a request", pointer=f"/{ARCHIVE}")
            self._files_to_close_on_error.pop().close()
            part.file.file = self._named_file()
        else:
            raise InvalidField(
                f"no file part {name!r} is read here: images go in {FILE!r}", pointer=f"/{name}"
            )

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._current_part.file is not None:
            self._count(self._current_part.field_name, end - start)
        super().on_part_data(data, start, end)

    def on_part_end(self) -> None:
        part = self._current_part
        if part.file is not None:
            super().on_part_end()
            return
        try:
            # Starlette would fall back to Latin-1 and store a label that nobody wrote.
            text = part.data.decode()
        except UnicodeDecodeError as error:
            raise MalformedRequest(f"part {part.field_name!r} is not UTF-8") from error
        self.items.append((part.field_name, text))

    def on_end(self) -> None:
        self.complete = True

    def _check_field(self, name: str) -> None:
        if name in {FILE, ARCHIVE}:
            raise InvalidField(f"part {name!r} has no filename: send it as a file", pointer=f"/{name}")
        if name not in self._limits.fields:
            known = ", ".join(sorted({FILE, *self._limits.fields}))
            raise InvalidField(f"no part {name!r} is read here, only {known}", pointer=f"/{name}")

    def _count(self, name: str, size: int) -> None:
        if name == ARCHIVE:
            self._archive_bytes += size
            if self._archive_bytes > self._limits.archive_bytes:
                raise BodyTooLarge(limit=self._limits.archive_bytes)
        else:
            self._image_bytes += size
            if self._image_bytes > self._limits.image_bytes:
                raise BodyTooLarge(limit=self._limits.image_bytes)

    def _named_file(self) -> BinaryIO:
        """A file with a path, unlike starlette's, for the store to take it from."""
        file = tempfile.NamedTemporaryFile(prefix="polyhead-")  # noqa: SIM115 (starlette closes it)
        self._files_to_close_on_error.append(file)  # type: ignore[arg-type]
        return cast("BinaryIO", file)
