"""Multipart bodies, read with a bound on everything.

Images are kept in memory, since they are decoded from there: a form's as far as `Limits` allow, those of all
requests as far as `BodyLimitMiddleware` does. An archive is written to a temporary file as it arrives. Parts
that no route reads are refused, so that a misspelt name is an error and not silence.
"""

import errno
import re
import tempfile
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import IO

import anyio.to_thread
from fastapi import Request
from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header

from service.errors import BodyTooLarge, InvalidField, MalformedRequest, StoreFull, TooManyImages
from service.settings import Settings

MAX_FIELDS = 1000  # parts that are no file, e.g. labels of a multilabel example
MAX_FIELD_BYTES = 64 * 1024
FILE = "file"
ARCHIVE = "archive"

WRITE_BYTES = 2**20  # of an archive at once: a thread is asked for each write

# Some clients don't quote it although it has a `=` or a `/`. More than 70 characters RFC 2046 doesn't allow.
_BOUNDARY = re.compile(r';\s*boundary="?([^";]{1,70})"?\s*(?:;|$)', re.IGNORECASE)


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
    with ExitStack() as files:
        try:
            form = await _read(request, _Parts(limits, files))
        except MultipartError as error:
            raise _unreadable(str(error)) from error
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
                raise StoreFull from error
            raise
        yield form


async def _read(request: Request, parts: "_Parts") -> Form:
    found = _BOUNDARY.search(request.headers.get("content-type", ""))
    if found is None:
        raise _unreadable("Missing boundary in multipart.")
    boundary = found[1].rstrip().encode("latin-1")
    # Not strict: a line end that comes in a chunk of its own after the last boundary would be refused.
    parser = PushMultipartParser(boundary, header_charset="latin-1")
    async for chunk in _from_boundary(b"--" + boundary, request.stream()):
        for event in parser.parse(chunk):
            if event is None:
                await parts.end()
            elif isinstance(event, MultipartSegment):
                parts.begin(event)
            else:
                await parts.add(event)
    try:
        parser.close()
    except MultipartError as error:
        raise MalformedRequest("the multipart body ends before its last boundary") from error
    return parts.form()


async def _from_boundary(opening: bytes, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The chunks of a body that begins with its first boundary, without line ends before it.

    The parser would skip anything up to there, and it depends on the cuts what it takes for the boundary.
    """
    head: bytes | None = b""
    async for chunk in chunks:
        if head is None:
            if chunk:  # the last is empty, which tells the parser that the body is complete
                yield chunk
            continue
        head = (head + chunk).lstrip(b"\r\n")
        if not head.startswith(opening[: len(head)]):
            raise _unreadable("it doesn't begin with its boundary")
        if len(head) >= len(opening):
            yield head
            head = None


class _Parts:
    """The parts of a form as they arrive, each checked by its headers before its data."""

    def __init__(self, limits: Limits, files: ExitStack) -> None:
        self._limits = limits
        self._open_files = files
        self._name = ""
        self._filename: str | None = None  # None: the part is a field
        self._data = BytesIO()  # of the part, not a list of its chunks: these may be of one byte each
        self._files: list[FilePart] = []
        self._fields: dict[str, list[str]] = {}
        self._archive: ArchivePart | None = None
        self._archive_file: IO[bytes]
        self._field_count = 0
        self._image_bytes = 0
        self._archive_bytes = 0

    def form(self) -> Form:
        return Form(self._files, self._archive, self._fields)

    def begin(self, segment: MultipartSegment) -> None:
        """Raises: MalformedRequest, InvalidField, TooManyImages."""
        self._name, self._filename = name, filename = _names(segment)
        self._data = BytesIO()
        if filename is None:
            self._begin_field()
        elif name == FILE:
            if len(self._files) == self._limits.images:
                raise TooManyImages(limit=self._limits.images)
        elif name == ARCHIVE and self._limits.archive_bytes:
            self._begin_archive(filename)
        else:
            raise InvalidField(
                f"no file part {name!r} is read here: images go in {FILE!r}", pointer=f"/{name}"
            )

    async def add(self, data: bytes) -> None:
        """Raises: MalformedRequest, BodyTooLarge, OSError."""
        if self._filename is None:
            if self._data.tell() + len(data) > MAX_FIELD_BYTES:
                raise _unreadable(f"Part exceeded maximum size of {MAX_FIELD_BYTES // 1024}KB.")
        elif self._name == FILE:
            self._image_bytes += len(data)
            if self._image_bytes > self._limits.image_bytes:
                raise BodyTooLarge(limit=self._limits.image_bytes)
        else:
            self._archive_bytes += len(data)
            if self._archive_bytes > self._limits.archive_bytes:
                raise BodyTooLarge(limit=self._limits.archive_bytes)
        self._data.write(data)
        if self._name == ARCHIVE and self._data.tell() >= WRITE_BYTES:
            await self._write()

    async def end(self) -> None:
        """Raises: MalformedRequest, OSError."""
        if self._filename is None:
            try:
                text = self._data.getvalue().decode()
            except UnicodeDecodeError as error:
                raise MalformedRequest(f"part {self._name!r} is not UTF-8") from error
            self._fields.setdefault(self._name, []).append(text)
        elif self._name == FILE:
            self._files.append(FilePart(self._filename or None, self._data.getvalue()))
        else:
            await self._write()

    def _begin_field(self) -> None:
        self._field_count += 1
        if self._field_count > MAX_FIELDS:
            raise _unreadable(f"Too many fields. Maximum number of fields is {MAX_FIELDS}.")
        name = self._name
        if name in {FILE, ARCHIVE}:
            raise InvalidField(f"part {name!r} has no filename: send it as a file", pointer=f"/{name}")
        if name not in self._limits.fields:
            known = ", ".join(sorted({FILE, *self._limits.fields}))
            raise InvalidField(f"no part {name!r} is read here, only {known}", pointer=f"/{name}")

    def _begin_archive(self, filename: str) -> None:
        if self._archive is not None:
            raise InvalidField("one archive is read in a request", pointer=f"/{ARCHIVE}")
        # Without a buffer, which a full disk would leave for `close` to write, and to fail again.
        file = tempfile.NamedTemporaryFile(prefix="polyhead-", buffering=0)  # noqa: SIM115 (on the next line)
        self._archive_file = self._open_files.enter_context(file)
        self._archive = ArchivePart(filename or None, Path(file.name))

    async def _write(self) -> None:
        await anyio.to_thread.run_sync(_write_all, self._archive_file, self._data.getbuffer())
        self._data = BytesIO()


def _write_all(file: IO[bytes], data: memoryview) -> None:
    while data:
        data = data[file.write(data) :]


def _names(segment: MultipartSegment) -> tuple[str, str | None]:
    """The name of a part and that of its file.

    Raises: MalformedRequest: it has no name.
    """
    name: str | None = segment.name
    filename: str | None = segment.filename
    said = dict(segment.headerlist)["Content-Disposition"]
    if "%" in said or "\\" in said:
        # The segment's have %22 and the like decoded, which is for whoever reads the name to do.
        _, options = parse_options_header(said)
        name, filename = options.get("name"), options.get("filename")
    if not name:
        raise _unreadable('The Content-Disposition header field "name" must be provided.')
    return _decoded(name), None if filename is None else _decoded(filename)


def _decoded(value: str) -> str:
    """A header's value that was read as Latin-1, which it rarely is."""
    try:
        return value.encode("latin-1").decode()
    except UnicodeDecodeError:
        return value


def _unreadable(why: str) -> MalformedRequest:
    return MalformedRequest(f"the multipart body can't be read: {why}")
