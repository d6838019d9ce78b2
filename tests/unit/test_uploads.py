"""Multipart bodies: read whatever the chunks, refused whatever the trick."""

import asyncio
import sys

import pytest
from fastapi import Request
from starlette.formparsers import MultiPartParser

from models.errors import PolyheadError
from service.errors import BodyTooLarge, InvalidField, MalformedRequest, TooManyImages
from service.web.uploads import Limits, open_form

LIMITS = Limits(images=2, image_bytes=100, archive_bytes=50, fields=frozenset({"label"}))


def part(name, data=b"", filename=None):
    disposition = f'form-data; name="{name}"' + (f'; filename="{filename}"' if filename else "")
    return b"--xyz\r\nContent-Disposition: " + disposition.encode() + b"\r\n\r\n" + data + b"\r\n"


def form(*parts):
    return b"".join(parts) + b"--xyz--\r\n"


def read(body, *, chunk=10**6, limits=LIMITS, look=lambda form: form):
    """Parse a body that comes in chunks; `look` sees the form while it is open."""
    chunks = [body[start : start + chunk] for start in range(0, len(body), chunk)] or [b""]
    messages = [{"type": "http.request", "body": each, "more_body": True} for each in chunks]
    messages[-1]["more_body"] = False

    async def receive():
        return messages.pop(0)

    headers = [(b"content-type", b"multipart/form-data; boundary=xyz")]
    request = Request({"type": "http", "method": "POST", "headers": headers}, receive)

    async def go():
        async with open_form(request, limits) as opened:
            return look(opened)

    return asyncio.run(go())


@pytest.mark.parametrize("chunk", [1, 2, 7, 64, 10**6])
def test_a_form_is_the_same_however_it_is_cut(chunk):
    body = form(
        part("label", "grün".encode()),
        part("file", b"a" * 40, "a.jpg"),
        part("file", b"\r\n--xy", "b.jpg"),
        part("label", b"2"),
    )
    parsed = read(body, chunk=chunk)
    assert parsed.fields == {"label": ["grün", "2"]}
    assert [(file.filename, file.data) for file in parsed.files] == [
        ("a.jpg", b"a" * 40),
        ("b.jpg", b"\r\n--xy"),
    ]
    assert parsed.archive is None


def test_an_archive_is_a_file_while_the_form_is_open():
    def look(opened):
        return opened.archive.path, opened.archive.path.read_bytes(), opened.archive.filename

    path, data, filename = read(form(part("archive", b"PK" * 20, "a.zip")), look=look)
    assert (data, filename) == (b"PK" * 20, "a.zip")
    assert not path.exists()


def test_litserves_unbounded_memory_is_not_ours():
    """Importing litserve changes the class that ours extends."""
    before = MultiPartParser.spool_max_size
    try:
        MultiPartParser.spool_max_size = sys.maxsize
        assert len(read(form(part("file", b"a" * 99, "a.jpg"))).files) == 1
        from service.web.uploads import _Parser  # noqa: PLC0415

        assert _Parser.spool_max_size < 2**30
    finally:
        MultiPartParser.spool_max_size = before


BAD = {
    "no end": (part("file", b"a", "a.jpg"), MalformedRequest),
    "cut in a header": (b"--xyz\r\nContent-Dispo", MalformedRequest),
    "another boundary": (b"--abc--\r\n", MalformedRequest),
    "nothing": (b"", MalformedRequest),
    "no name": (b"--xyz\r\nContent-Disposition: form-data\r\n\r\nx\r\n--xyz--\r\n", MalformedRequest),
    "not utf-8": (form(part("label", b"\xff")), MalformedRequest),
    "latin-1": (form(part("label", "ü".encode("latin-1"))), MalformedRequest),
    "many files": (form(*[part("file", b"a", "a.jpg")] * 3), TooManyImages),
    "large file": (form(part("file", b"a" * 101, "a.jpg")), BodyTooLarge),
    "large files": (form(*[part("file", b"a" * 51, "a.jpg")] * 2), BodyTooLarge),
    "large archive": (form(part("archive", b"a" * 51, "a.zip")), BodyTooLarge),
    "two archives": (form(*[part("archive", b"a", "a.zip")] * 2), InvalidField),
    "unknown file": (form(part("image", b"a", "a.jpg")), InvalidField),
    "unknown field": (form(part("lable", b"a")), InvalidField),
    "file without a filename": (form(part("file", b"a")), InvalidField),
    "long field": (form(part("label", b"a" * 70_000)), MalformedRequest),
    "many fields": (form(*[part("label", b"a")] * 1001), MalformedRequest),
}


@pytest.mark.parametrize("chunk", [3, 10**6])
@pytest.mark.parametrize(("body", "error"), BAD.values(), ids=BAD)
def test_a_bad_form_is_refused(body, error, chunk):
    with pytest.raises(error) as caught:
        read(body, chunk=chunk)
    assert isinstance(caught.value, PolyheadError)


def test_an_archive_is_refused_where_none_is_read():
    limits = Limits(images=1, image_bytes=10, archive_bytes=0, fields=frozenset())
    with pytest.raises(InvalidField):
        read(form(part("archive", b"a", "a.zip")), limits=limits)


def test_a_field_that_is_given_twice_is_refused():
    with pytest.raises(InvalidField, match="2 times"):
        read(form(part("label", b"a"), part("label", b"b"))).one("label")
